(define (problem teahouse-4)
  (:domain teahouse)
  (:objects red-cup blue-cup green-cup - cup mint jasmine nettle - tea round-tin square-tin tall-tin - tin copper-kettle - kettle)
  (:init
    (clean red-cup)
    (clean blue-cup)
    (dirty green-cup)
    (kept mint square-tin)
    (kept jasmine round-tin)
    (kept nettle tall-tin))
  (:goal (and
    (served nettle red-cup)
    (served nettle blue-cup))))
