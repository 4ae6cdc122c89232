(define (problem crates-2)
  (:domain crates)
  (:objects amber birch cedar dune - crate)
  (:init
    (hook-free)
    (on-quay birch)
    (on amber dune)
    (on cedar birch)
    (on dune cedar)
    (top amber))
  (:goal (and
    (on cedar dune))))
