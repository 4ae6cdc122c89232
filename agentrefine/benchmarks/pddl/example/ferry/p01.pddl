(define (problem ferry-1)
  (:domain ferry)
  (:objects birch-shore stone-shore - shore hay-cart milk-cart - cart)
  (:init
    (moored birch-shore)
    (free)
    (stands hay-cart birch-shore)
    (stands milk-cart stone-shore))
  (:goal (and
    (stands hay-cart stone-shore)
    (stands milk-cart birch-shore))))
