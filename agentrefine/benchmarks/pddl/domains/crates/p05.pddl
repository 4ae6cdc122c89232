(define (problem crates-5)
  (:domain crates)
  (:objects amber birch cedar dune ember - crate)
  (:init
    (hook-free)
    (on-quay ember)
    (on amber dune)
    (on birch amber)
    (on cedar ember)
    (on dune cedar)
    (top birch))
  (:goal (and
    (on birch cedar)
    (on ember dune))))
