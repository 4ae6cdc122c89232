; A tea house: cups are washed, tins opened, water boiled and poured over the leaves.
(define (domain teahouse)
  (:requirements :strips :typing :negative-preconditions)
  (:types cup tea tin kettle)
  (:predicates
    (dirty ?cup - cup)
    (clean ?cup - cup)
    (kept ?tea - tea ?tin - tin)
    (open ?tin - tin)
    (cold ?kettle - kettle)
    (hot ?kettle - kettle)
    (leaves ?tea - tea ?cup - cup)
    (served ?tea - tea ?cup - cup))

  (:action wash
    :parameters (?cup - cup)
    :precondition (dirty ?cup)
    :effect (and (clean ?cup) (not (dirty ?cup))))

  (:action open
    :parameters (?tin - tin)
    :precondition (not (open ?tin))
    :effect (open ?tin))

  (:action fill
    :parameters (?kettle - kettle)
    :precondition (and (not (cold ?kettle)) (not (hot ?kettle)))
    :effect (cold ?kettle))

  (:action boil
    :parameters (?kettle - kettle)
    :precondition (cold ?kettle)
    :effect (and (hot ?kettle) (not (cold ?kettle))))

  (:action spoon
    :parameters (?tea - tea ?tin - tin ?cup - cup)
    :precondition (and (open ?tin) (kept ?tea ?tin) (clean ?cup))
    :effect (and (leaves ?tea ?cup) (not (clean ?cup))))

  (:action pour
    :parameters (?kettle - kettle ?tea - tea ?cup - cup)
    :precondition (and (hot ?kettle) (leaves ?tea ?cup))
    :effect (and (served ?tea ?cup) (not (leaves ?tea ?cup)) (not (hot ?kettle))))

  (:action empty
    :parameters (?tea - tea ?cup - cup)
    :precondition (served ?tea ?cup)
    :effect (and (dirty ?cup) (not (served ?tea ?cup)))))
