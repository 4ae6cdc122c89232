"""Rates over several tunings: intervals that count the luck of the seed and the choice of the episodes together.

The models of a variant (one a seed) are played on the same episodes, so seeds and episodes are crossed. Each bootstrap
draw therefore draws seeds and, apart from them, episodes, both with replacement (the pigeonhole bootstrap, Owen 2007,
which errs on the wide side). What was played under the same conditions (`Episode.cluster`) counts as one episode.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentrefine.evaluation.metrics.rates import (
    BOOTSTRAP_DRAWS,
    BOOTSTRAP_SEED,
    NO_WIDTH,
    NOTHING,
    Rate,
    wilson_bounds,
)

MIN_SEEDS = 3
"""Of fewer tunings it cannot be told whether another one would come out the same."""

NOT_TUNED = (None,)
"""The seeds of what is not tuned, such as the base."""

SeedVerdict = Literal["better", "worse", "no difference shown", "too few seeds"]


class SeededCounts(NamedTuple):
    """What a rate is made of, by seed and cluster.

    Attributes:
        seeds: of the rows, or `NOT_TUNED`.
        clusters: of the columns.
        hits: shape [seeds, clusters]: what is counted, such as solved episodes.
        of: the same shape: what it is a share of.
    """

    seeds: tuple[int | None, ...]
    clusters: tuple[str, ...]
    hits: NDArray[np.float64]
    of: NDArray[np.float64]


class SeededDifference(NamedTuple):
    """By how much two variants differ over seeds and episodes: `a` minus `b`.

    Attributes:
        rate: the difference of their rates in [-1, 1] with its interval; `n` counts the seeds of the one with fewer.
        verdict: `better` or `worse` when the interval excludes 0 and both have `MIN_SEEDS` seeds.
    """

    rate: Rate
    verdict: SeedVerdict


def seeded_rate(counts: SeededCounts) -> Rate:
    """Hits over what they are a share of, all seeds together; `n` is the sum of the latter.

    Where every draw is the same, the interval is Wilson's of as many trials as there are clusters.
    """
    total = counts.of.sum()
    if total == 0:
        return NOTHING
    value = float(counts.hits.sum() / total)
    low, high = _interval(_drawn(counts, *_draws(counts.hits.shape)))
    if high - low < NO_WIDTH:
        low, high = wilson_bounds(value, int((counts.of.sum(axis=0) > 0).sum()))
    return Rate(value=value, low=low, high=high, n=round(float(total)))


def seeded_difference(a: SeededCounts, b: SeededCounts) -> SeededDifference | None:
    """By how much `a` is ahead on the clusters that both have; None where they share none, or nothing was counted.

    Both are drawn on the same episodes, and with the same seeds where both have the same.
    """
    shared = [cluster for cluster in a.clusters if cluster in set(b.clusters)]
    a, b = _restricted(a, shared), _restricted(b, shared)
    if not shared or not a.of.sum() or not b.of.sum():
        return None
    seeds, episodes = _draws(a.hits.shape)
    others = seeds if a.seeds == b.seeds else _draws(b.hits.shape, BOOTSTRAP_SEED + 1)[0]
    difference = float(a.hits.sum() / a.of.sum() - b.hits.sum() / b.of.sum())
    low, high = _interval(_drawn(a, seeds, episodes) - _drawn(b, others, episodes))
    fewest = min((len(counts.seeds) for counts in (a, b) if counts.seeds != NOT_TUNED), default=MIN_SEEDS)
    verdict: SeedVerdict = "no difference shown"
    if fewest < MIN_SEEDS:
        verdict = "too few seeds"
    elif low > 0 or high < 0:
        verdict = "better" if low > 0 else "worse"
    return SeededDifference(Rate(value=difference, low=low, high=high, n=fewest), verdict)


def _restricted(counts: SeededCounts, clusters: list[str]) -> SeededCounts:
    place = {cluster: column for column, cluster in enumerate(counts.clusters)}
    columns = [place[cluster] for cluster in clusters]
    return SeededCounts(counts.seeds, tuple(clusters), counts.hits[:, columns], counts.of[:, columns])


@lru_cache(maxsize=16)
def _draws(shape: tuple[int, ...], seed: int = BOOTSTRAP_SEED) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each seed and each cluster is drawn, one row a bootstrap sample."""
    generator = np.random.default_rng(seed)
    seeds, clusters = shape
    return (
        generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=BOOTSTRAP_DRAWS),
        generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=BOOTSTRAP_DRAWS),
    )


def _drawn(counts: SeededCounts, seeds: NDArray[np.int64], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """The rate of every draw; NaN where nothing was counted in it."""
    hits = ((seeds @ counts.hits) * clusters).sum(axis=1)
    of = ((seeds @ counts.of) * clusters).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates: NDArray[np.float64] = hits / of
    return rates


def _interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)
