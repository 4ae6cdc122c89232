(define (problem teahouse-3)
  (:domain teahouse)
  (:objects red-cup blue-cup green-cup - cup mint jasmine nettle - tea round-tin square-tin tall-tin - tin copper-kettle iron-kettle - kettle)
  (:init
    (dirty red-cup)
    (clean blue-cup)
    (dirty green-cup)
    (kept mint round-tin)
    (kept jasmine tall-tin)
    (kept nettle square-tin))
  (:goal (and
    (served nettle green-cup)
    (served mint red-cup))))
