(define (problem teahouse-2)
  (:domain teahouse)
  (:objects red-cup blue-cup - cup mint jasmine - tea round-tin square-tin - tin copper-kettle - kettle)
  (:init
    (dirty red-cup)
    (dirty blue-cup)
    (kept mint square-tin)
    (kept jasmine round-tin))
  (:goal (and
    (served jasmine blue-cup))))
