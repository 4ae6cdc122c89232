(define (problem crates-1)
  (:domain crates)
  (:objects amber birch cedar - crate)
  (:init
    (hook-free)
    (on-quay cedar)
    (on-quay birch)
    (on amber cedar)
    (top amber)
    (top birch))
  (:goal (and
    (on amber cedar)
    (on cedar birch))))
