; A ferry carries carts across a lake, one at a time.
(define (domain ferry)
  (:requirements :strips :typing)
  (:types shore cart)
  (:predicates
    (moored ?shore - shore)
    (stands ?cart - cart ?shore - shore)
    (free)
    (aboard ?cart - cart))

  (:action sail
    :parameters (?from ?to - shore)
    :precondition (moored ?from)
    :effect (and (moored ?to) (not (moored ?from))))

  (:action board
    :parameters (?cart - cart ?shore - shore)
    :precondition (and (moored ?shore) (stands ?cart ?shore) (free))
    :effect (and (aboard ?cart) (not (stands ?cart ?shore)) (not (free))))

  (:action land
    :parameters (?cart - cart ?shore - shore)
    :precondition (and (moored ?shore) (aboard ?cart))
    :effect (and (stands ?cart ?shore) (free) (not (aboard ?cart)))))
