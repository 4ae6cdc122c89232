; A crane piles crates on the quay. It holds one crate at a time and reaches only the top of a pile.
(define (domain crates)
  (:requirements :strips :typing)
  (:types crate)
  (:predicates
    (on-quay ?crate - crate)
    (on ?crate ?below - crate)
    (top ?crate - crate)
    (hook-free)
    (hanging ?crate - crate))

  (:action hoist
    :parameters (?crate - crate)
    :precondition (and (on-quay ?crate) (top ?crate) (hook-free))
    :effect (and (hanging ?crate) (not (on-quay ?crate)) (not (top ?crate)) (not (hook-free))))

  (:action lower
    :parameters (?crate - crate)
    :precondition (hanging ?crate)
    :effect (and (on-quay ?crate) (top ?crate) (hook-free) (not (hanging ?crate))))

  (:action unload
    :parameters (?crate ?below - crate)
    :precondition (and (on ?crate ?below) (top ?crate) (hook-free))
    :effect (and (hanging ?crate) (top ?below) (not (on ?crate ?below)) (not (top ?crate)) (not (hook-free))))

  (:action load
    :parameters (?crate ?below - crate)
    :precondition (and (hanging ?crate) (top ?below))
    :effect (and (on ?crate ?below) (top ?crate) (hook-free) (not (hanging ?crate)) (not (top ?below)))))
