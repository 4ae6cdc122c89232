(define (problem teahouse-1)
  (:domain teahouse)
  (:objects red-cup blue-cup - cup mint jasmine - tea round-tin square-tin - tin copper-kettle iron-kettle - kettle)
  (:init
    (dirty red-cup)
    (clean blue-cup)
    (kept mint round-tin)
    (kept jasmine square-tin))
  (:goal (and
    (served jasmine blue-cup))))
