"""Rates over several tunings: intervals that count the luck of the seed and the choice of the episodes together.

The models of a variant (one a seed) are played on the same episodes, so seeds and episodes are crossed. The variance of
a rate is the sum of two parts: how much it changes from seed to seed, and from episode to episode (both linearised, as
for a ratio). What varies in a single play is in both parts, which makes the interval a little wide. The interval is
Student's t with Satterthwaite's degrees of freedom, because three seeds are few. What was played under the same
conditions (`Episode.cluster`) counts as one episode.
"""

from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from agentrefine.evaluation.metrics.comparison import MIN_DIFFERING
from agentrefine.evaluation.metrics.rates import NO_WIDTH, NOTHING, Rate, wilson_bounds

MIN_SEEDS = 3
"""Of fewer tunings it cannot be told whether another one would come out the same."""

NOT_TUNED = (None,)
"""The seeds of what is not tuned, such as the base."""

SeedVerdict = Literal["higher", "lower", "no difference shown", "too few seeds", "too few episodes differ"]


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

    @property
    def rate(self) -> float:
        """Hits over what they are a share of, all seeds together."""
        return float(self.hits.sum() / self.of.sum())


class SeededDifference(NamedTuple):
    """By how much two variants differ over seeds and episodes: `a` minus `b`.

    Attributes:
        rate: the difference of their rates in [-1, 1] with its interval; `n` is the number of clusters that both have.
        verdict: `higher` or `lower` when the interval excludes 0, both have `MIN_SEEDS` seeds, and they differ in as
            many clusters as the exact test of two models needs (`comparison.MIN_DIFFERING`).
    """

    rate: Rate
    verdict: SeedVerdict


class _Part(NamedTuple):
    """A part of the variance, and from how many values it was estimated."""

    variance: float
    values: int


def seeded_rate(counts: SeededCounts) -> Rate:
    """A rate of one variant, all seeds together; `n` is the number of what it is a share of.

    Where nothing varies, the interval is Wilson's of as many trials as there are clusters.
    """
    total = counts.of.sum()
    if total == 0:
        return NOTHING
    value = counts.rate
    half = _half_width([_seed_part(counts), _part(_influence(counts, axis=0))])
    low, high = max(0.0, value - half), min(1.0, value + half)
    if half < NO_WIDTH:
        low, high = wilson_bounds(value, int((counts.of.sum(axis=0) > 0).sum()))
    return Rate(value=value, low=low, high=high, n=round(float(total)))


def seeded_difference(a: SeededCounts, b: SeededCounts) -> SeededDifference | None:
    """By how much `a` is above `b` on the clusters that both have; None where they share none, or nothing was counted.

    Episodes are paired, and so are seeds where both variants have the same.
    """
    shared = [cluster for cluster in a.clusters if cluster in set(b.clusters)]
    a, b = _restricted(a, shared), _restricted(b, shared)
    if not shared or not a.of.sum() or not b.of.sum():
        return None
    difference = a.rate - b.rate
    episodes = _influence(a, axis=0) - _influence(b, axis=0)
    if a.seeds == b.seeds:
        parts = [_part(_influence(a, axis=1) - _influence(b, axis=1))]
    else:
        parts = [_seed_part(a), _seed_part(b)]
    half = _half_width([*parts, _part(episodes)])
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    fewest = min((len(counts.seeds) for counts in (a, b) if counts.seeds != NOT_TUNED), default=MIN_SEEDS)
    differing = int((_by_cluster(a) != _by_cluster(b)).sum())
    verdict: SeedVerdict = "no difference shown"
    if fewest < MIN_SEEDS:
        verdict = "too few seeds"
    elif differing < MIN_DIFFERING:
        verdict = "too few episodes differ"
    elif half > NO_WIDTH and (low > 0 or high < 0):
        verdict = "higher" if low > 0 else "lower"
    return SeededDifference(Rate(value=difference, low=low, high=high, n=len(shared)), verdict)


def _restricted(counts: SeededCounts, clusters: list[str]) -> SeededCounts:
    place = {cluster: column for column, cluster in enumerate(counts.clusters)}
    columns = [place[cluster] for cluster in clusters]
    return SeededCounts(counts.seeds, tuple(clusters), counts.hits[:, columns], counts.of[:, columns])


def _influence(counts: SeededCounts, *, axis: int) -> NDArray[np.float64]:
    """What each cluster (axis 0 is summed) or each seed (axis 1) adds to the rate, above or below the whole."""
    hits, of = counts.hits.sum(axis=axis), counts.of.sum(axis=axis)
    influence: NDArray[np.float64] = (hits - counts.rate * of) / counts.of.sum()
    return influence


def _part(influence: NDArray[np.float64]) -> _Part:
    """The variance of a sum of independent influences; that of a single one is unknown and left out."""
    n = len(influence)
    return _Part(float(n / (n - 1) * (influence**2).sum()) if n > 1 else 0.0, n)


def _seed_part(counts: SeededCounts) -> _Part:
    return _part(_influence(counts, axis=1))


def _half_width(parts: list[_Part]) -> float:
    """Half of the 95% interval."""
    total = sum(part.variance for part in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(part.variance**2 / (part.values - 1) for part in parts if part.variance)
    return float(stats.t.ppf(0.975, freedom) * sqrt(total))


def _by_cluster(counts: SeededCounts) -> NDArray[np.float64]:
    """The rate in each cluster; -1 where nothing was counted."""
    hits, of = counts.hits.sum(axis=0), counts.of.sum(axis=0)
    rates: NDArray[np.float64] = np.divide(hits, of, out=np.full_like(hits, -1.0), where=of > 0)
    return rates
