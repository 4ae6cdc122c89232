"""Rates with their 95% intervals: Wilson's for shares of independent episodes, a cluster bootstrap for the rest.

What was played under the same conditions belongs together: the steps of an episode, the attempts at it, a world in
several perturbations. Such a cluster is drawn as a whole, because its members are not independent (Efron and Tibshirani
1993; Cameron, Gelbach and Miller 2008).
"""

from collections.abc import Sequence
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""

BOOTSTRAP_DRAWS = 2000
"""How often the clusters are drawn for an interval."""
BOOTSTRAP_SEED = 0
"""The seed of these draws, fixed so that equal episodes have equal intervals."""
NO_WIDTH = 1e-9
"""An interval narrower than that is a matter of rounding."""


class Rate(BaseModel, frozen=True):
    """A rate or mean with its 95% interval.

    Example: `{"value": 0.42, "low": 0.29, "high": 0.56, "n": 50}`

    Attributes:
        value, low, high: the estimate and its interval; all None when n is 0.
        n: what it is a share or mean of: episodes, or steps.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


class Curve(BaseModel, frozen=True):
    """Means after 0, 1, 2, ... steps with the bounds of their 95% bootstrap intervals; empty for no episodes.

    Example: `{"value": [0.0, 0.5], "low": [0.0, 0.36], "high": [0.0, 0.64]}`
    """

    value: list[float]
    low: list[float]
    high: list[float]

    def points(self) -> list[tuple[float, float, float]]:
        """Value, low and high, step by step."""
        return list(zip(self.value, self.low, self.high, strict=True))


NOTHING = Rate(value=None, low=None, high=None, n=0)


def wilson(successes: int, n: int) -> Rate:
    """A share of independent trials with Wilson's score interval (Wilson 1927)."""
    if n == 0:
        return NOTHING
    low, high = wilson_bounds(successes / n, n)
    return Rate(value=successes / n, low=low, high=high, n=n)


def episode_share(hits: Sequence[bool], clusters: Sequence[str]) -> Rate:
    """A share of episodes: Wilson's interval where no two are of one cluster, else as `ratio`."""
    if len(set(clusters)) == len(hits):
        return wilson(sum(hits), len(hits))
    return ratio([float(hit) for hit in hits], [1] * len(hits), clusters)


def ratio(numerators: Sequence[float], denominators: Sequence[int], clusters: Sequence[str]) -> Rate:
    """Sum of numerators over sum of denominators, a share in [0, 1], with the bootstrap interval over clusters.

    Where every bootstrap sample is the same (a single cluster, or all alike), the interval is Wilson's for that share
    of as many trials as there are clusters: no value in [0, 1] varies more than a trial does.

    Args:
        numerators: one of each episode, from 0 to its denominator.
        denominators: what it is a share of, such as the episode's steps; `n` is their sum.
        clusters: what each episode belongs to.
    """
    total = sum(denominators)
    if total == 0:
        return NOTHING
    value, low, high = _bootstrap(numerators, denominators, clusters)
    if high - low < NO_WIDTH:
        counted = {cluster for cluster, denominator in zip(clusters, denominators, strict=True) if denominator}
        low, high = wilson_bounds(value, len(counted))
    return Rate(value=value, low=low, high=high, n=total)


def mean(values: Sequence[float], clusters: Sequence[str]) -> Rate:
    """A mean over episodes, of any range, with the bootstrap interval over clusters.

    A single cluster, or equal values, give an interval without width: there is nothing to draw from.
    """
    if not values:
        return NOTHING
    value, low, high = _bootstrap(values, [1] * len(values), clusters)
    return Rate(value=value, low=low, high=high, n=len(values))


def curve(rows: NDArray[np.float64], clusters: Sequence[str]) -> Curve:
    """The mean of each column with its bootstrap interval over clusters.

    Args:
        rows: shape [episodes, steps + 1].
        clusters: what each episode belongs to.
    """
    if rows.size == 0:
        return Curve(value=[], low=[], high=[])
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, member, rows)
    draws = _draws(len(names))
    drawn = (draws @ sums) / (draws @ np.bincount(member))[:, None]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return Curve(value=rows.mean(axis=0).tolist(), low=low.tolist(), high=high.tolist())


def wilson_bounds(p: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share `p` of `n` trials."""
    denominator = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / denominator
    half = Z95 / denominator * sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    # At 0 and 1 the bound is exact, but rounding may miss it.
    return 0.0 if p == 0 else max(0.0, centre - half), 1.0 if p == 1 else min(1.0, centre + half)


def _bootstrap(
    numerators: Sequence[float], denominators: Sequence[int], clusters: Sequence[str]
) -> tuple[float, float, float]:
    """Sum of numerators over sum of denominators, with its interval from draws of whole clusters."""
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    top, bottom = (np.bincount(member, weights=np.asarray(parts, float)) for parts in (numerators, denominators))
    draws = _draws(len(names))
    drawn = draws @ bottom
    defined = drawn > 0
    low, high = np.percentile((draws @ top)[defined] / drawn[defined], [2.5, 97.5])
    return float(top.sum() / bottom.sum()), float(low), float(high)


@lru_cache(maxsize=16)
def _draws(n: int) -> NDArray[np.int64]:
    """How often each of `n` clusters is drawn, one row a bootstrap sample."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    return generator.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_DRAWS)
