(define (problem crates-4)
  (:domain crates)
  (:objects amber birch cedar dune ember - crate)
  (:init
    (hook-free)
    (on-quay amber)
    (on-quay cedar)
    (on birch amber)
    (on dune ember)
    (on ember birch)
    (top dune)
    (top cedar))
  (:goal (and
    (on birch ember))))
