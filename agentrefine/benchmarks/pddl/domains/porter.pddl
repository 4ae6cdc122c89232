; A porter with two hands carries parcels through the rooms of a house.
(define (domain porter)
  (:requirements :strips :typing)
  (:types room parcel hand)
  (:predicates
    (door ?from ?to - room)
    (here ?room - room)
    (in ?parcel - parcel ?room - room)
    (empty ?hand - hand)
    (holds ?hand - hand ?parcel - parcel))

  (:action walk
    :parameters (?from ?to - room)
    :precondition (and (here ?from) (door ?from ?to))
    :effect (and (here ?to) (not (here ?from))))

  (:action take
    :parameters (?parcel - parcel ?hand - hand ?room - room)
    :precondition (and (here ?room) (in ?parcel ?room) (empty ?hand))
    :effect (and (holds ?hand ?parcel) (not (in ?parcel ?room)) (not (empty ?hand))))

  (:action leave
    :parameters (?parcel - parcel ?hand - hand ?room - room)
    :precondition (and (here ?room) (holds ?hand ?parcel))
    :effect (and (in ?parcel ?room) (empty ?hand) (not (holds ?hand ?parcel)))))
