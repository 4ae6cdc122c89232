(define (problem porter-1)
  (:domain porter)
  (:objects hall kitchen - room hatbox trunk - parcel left-hand right-hand - hand)
  (:init
    (here kitchen)
    (empty left-hand) (empty right-hand)
    (door kitchen hall) (door hall kitchen)
    (in hatbox hall)
    (in trunk kitchen))
  (:goal (and
    (in hatbox kitchen)
    (in trunk hall))))
