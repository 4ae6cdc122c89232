"""Two models on the same episodes, paired: by how much they differ, and whether that can be chance."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import comb
from typing import Literal, NamedTuple

from pydantic import BaseModel

from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode, grouped
from agentrefine.evaluation.metrics.rates import Rate, mean

SIGNIFICANCE = 0.05
MIN_DIFFERING = 6
"""With five pairs that all favour one model the exact test's p is still 0.0625; with six it is 0.03125."""

Verdict = Literal["better", "worse", "no difference shown", "too few episodes differ"]


class Comparison(BaseModel, frozen=True):
    """Two models on the same episodes, paired: differences are `a` minus `b`.

    What was played under the same conditions (`Episode.cluster`) is one pair: an episode with all its attempts, a world
    with all its perturbations. Episodes in which the simulator failed with either model are left out.

    Example: `{"benchmark": "babyai", "a": "refinement", "b": "base", "pairs": 50, ..., "verdict": "better", ...}`

    Attributes:
        benchmark: the benchmark's name; empty when the episodes are of several.
        a, b: the models' names.
        success_difference, progress_difference: mean over the episodes, in [-1, 1], with the interval of the bootstrap
            over pairs; of several attempts at an episode the mean is taken first.
        pairs: how many there are.
        played_once: each pair is one episode that each model has played once.
        only_a, only_b: pairs that only one of the two solved; where pairs are not single episodes: solved more often.
        left_out: episodes without evidence because the simulator failed.
        p_value: McNemar's exact two-sided test of equal success; in pairs of several episodes, the sign test.
        progress_p_value: the exact sign test of who has more progress, pair by pair.
        verdict: about success. `better` or `worse` when the interval of the difference excludes 0 and the exact test
            agrees at 5% (with few differing pairs the bootstrap alone is too sure). `too few episodes differ` when the
            test could not have come to 5%, whatever the outcome.
        progress_verdict: the same about progress.
    """

    benchmark: str
    a: str
    b: str
    success_difference: Rate
    progress_difference: Rate
    pairs: int
    played_once: bool
    only_a: int
    only_b: int
    left_out: int
    p_value: float
    progress_p_value: float
    verdict: Verdict
    progress_verdict: Verdict

    @property
    def is_ahead(self) -> bool:
        """Whether `a` is better in success or in progress."""
        return "better" in (self.verdict, self.progress_verdict)

    @property
    def reason(self) -> str:
        """What the verdict rests on, as the end of a sentence."""
        test = f"the exact test's p is {self.p_value:.2g}"
        if self.verdict == "too few episodes differ":
            return f"{self.only_a + self.only_b} of {self.pairs}; the exact test needs {MIN_DIFFERING}"
        if self.verdict != "no difference shown":
            return f"the interval excludes 0 and {test}"
        if self.p_value < SIGNIFICANCE:
            return f"{test}, but the interval includes 0"
        excludes_0 = _side_of_0(self.success_difference) != 0
        return f"{test}, {'although the interval excludes' if excludes_0 else 'and the interval includes'} 0"


class _Measure(NamedTuple):
    """Success or progress of two models: by how much they differ, in how many pairs each is ahead, what follows."""

    difference: Rate
    only_a: int
    only_b: int
    p_value: float
    verdict: Verdict


def compare(a: Iterable[Episode], b: Iterable[Episode]) -> Comparison:
    """Is `a` better than `b` on the episodes that both played?

    Raises:
        UserError: the two have not played the same episodes, or none.
    """
    of_a, of_b = (grouped(episodes, lambda e: (e.benchmark, e.id)) for episodes in (a, b))
    only_first, only_second, both = of_a.keys() - of_b.keys(), of_b.keys() - of_a.keys(), of_a.keys() & of_b.keys()
    if not both or only_first or only_second:
        message = (
            f"two models cannot be paired: {len(only_first)} episodes were played by the first only, "
            f"{len(only_second)} by the second only, {len(both)} by both; evaluate both with the same parameters."
        )
        raise UserError("not_paired", message, only_first=len(only_first), only_second=len(only_second), both=len(both))
    judged = [[[e for e in attempts[key] if e.is_evidence] for attempts in (of_a, of_b)] for key in sorted(both)]
    pairs = [(first, second) for first, second in judged if first and second]
    clusters = [f"{first[0].benchmark}/{first[0].cluster}" for first, _ in pairs]
    benchmarks = {benchmark for benchmark, _ in both}
    success = _measure(pairs, clusters, lambda episode: episode.success)
    progress = _measure(pairs, clusters, lambda episode: episode.progress)
    return Comparison(
        benchmark=benchmarks.pop() if len(benchmarks) == 1 else "",
        a=next(iter(of_a.values()))[0].model,
        b=next(iter(of_b.values()))[0].model,
        success_difference=success.difference,
        progress_difference=progress.difference,
        pairs=len(set(clusters)),
        played_once=len(set(clusters)) == len(pairs) and all(len(first) == len(second) == 1 for first, second in pairs),
        only_a=success.only_a,
        only_b=success.only_b,
        left_out=len(judged) - len(pairs),
        p_value=success.p_value,
        progress_p_value=progress.p_value,
        verdict=success.verdict,
        progress_verdict=progress.verdict,
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value: the differing pairs against a fair coin (McNemar 1947, exact binomial form)."""
    n = only_a + only_b
    tail: int = sum(comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**n))


def _measure(
    pairs: Sequence[tuple[list[Episode], list[Episode]]], clusters: Sequence[str], value: Callable[[Episode], float]
) -> _Measure:
    """What follows from the differences of the models' episodes, which are fractions: equals differ by 0."""
    means = [[statistics.mean(Fraction(value(attempt)) for attempt in attempts) for attempts in pair] for pair in pairs]
    differences = [first - second for first, second in means]
    by_pair: defaultdict[str, Fraction] = defaultdict(Fraction)
    for cluster, ahead in zip(clusters, differences, strict=True):
        by_pair[cluster] += ahead
    only_a, only_b = sum(total > 0 for total in by_pair.values()), sum(total < 0 for total in by_pair.values())
    difference = mean([float(ahead) for ahead in differences], clusters)
    p_value = mcnemar_exact(only_a, only_b)
    verdict: Verdict = "no difference shown"
    if only_a + only_b < MIN_DIFFERING:
        verdict = "too few episodes differ"
    elif p_value < SIGNIFICANCE and _side_of_0(difference):
        verdict = "better" if _side_of_0(difference) > 0 else "worse"
    return _Measure(difference, only_a, only_b, p_value, verdict)


def _side_of_0(rate: Rate) -> int:
    """1 or -1 where the whole interval is above or below 0, else 0."""
    return (rate.low is not None and rate.low > 0) - (rate.high is not None and rate.high < 0)
