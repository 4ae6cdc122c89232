(define (problem porter-2)
  (:domain porter)
  (:objects hall kitchen cellar - room hatbox trunk - parcel left-hand right-hand - hand)
  (:init
    (here kitchen)
    (empty left-hand) (empty right-hand)
    (door kitchen hall) (door hall kitchen)
    (door cellar hall) (door hall cellar)
    (in hatbox hall)
    (in trunk kitchen))
  (:goal (and
    (in hatbox kitchen)
    (in trunk cellar))))
