"""Two models on the same episodes, paired: by how much they differ, and whether that can be chance."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import comb
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics.rates import Rate, mean

SIGNIFICANCE = 0.05
MIN_DIFFERING = 6
"""With five pairs that all favour one model the exact test's p is still 0.0625; with six it is 0.03125."""

Verdict = Literal["better", "worse", "no difference shown", "too few episodes differ"]

Attempts = dict[tuple[str, str], list[Episode]]
"""A model's attempts at each episode, by benchmark and id."""


class Comparison(BaseModel):
    """Two models on the same episodes, paired: differences are `a` minus `b`.

    What was played under the same conditions (`Episode.cluster`) is one pair: an episode with all its attempts, a world
    with all its wordings. Episodes in which the simulator failed with either model are left out.

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

    model_config = ConfigDict(frozen=True)

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
    def interval_excludes_0(self) -> bool:
        """Whether the interval of the success difference lies on one side of 0."""
        low, high = self.success_difference.low, self.success_difference.high
        return low is not None and high is not None and (low > 0 or high < 0)

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
        return (
            f"{test}, {'although the interval excludes' if self.interval_excludes_0 else 'and the interval includes'} 0"
        )


def compare(a: Iterable[Episode], b: Iterable[Episode]) -> Comparison:
    """Is `a` better than `b` on the episodes that both played?

    Raises:
        UserError: the two have not played the same episodes, or none.
    """
    of_a, of_b = _attempts(a), _attempts(b)
    if not of_a or of_a.keys() != of_b.keys():
        raise UserError(
            "not_paired",
            f"two models cannot be paired: {len(of_a.keys() - of_b.keys())} episodes were played by the first only, "
            f"{len(of_b.keys() - of_a.keys())} by the second only, {len(of_a.keys() & of_b.keys())} by both; "
            "evaluate both with the same parameters.",
            only_first=len(of_a.keys() - of_b.keys()),
            only_second=len(of_b.keys() - of_a.keys()),
            both=len(of_a.keys() & of_b.keys()),
        )
    names = next(iter(of_a.values()))[0].model, next(iter(of_b.values()))[0].model
    benchmarks = {benchmark for benchmark, _ in of_a}
    judged = [(_evidence(of_a[key]), _evidence(of_b[key])) for key in sorted(of_a)]
    both = [(first, second) for first, second in judged if first and second]
    clusters = [f"{first[0].benchmark}/{first[0].cluster}" for first, _ in both]
    differences = [_successes(first) - _successes(second) for first, second in both]
    progress_differences = [_progress(first) - _progress(second) for first, second in both]
    only_a, only_b = _ahead(differences, clusters)
    more_a, more_b = _ahead(progress_differences, clusters)
    success, progress = (
        mean([float(difference) for difference in found], clusters) for found in (differences, progress_differences)
    )
    p_value, progress_p_value = mcnemar_exact(only_a, only_b), mcnemar_exact(more_a, more_b)
    return Comparison(
        benchmark=benchmarks.pop() if len(benchmarks) == 1 else "",
        a=names[0],
        b=names[1],
        success_difference=success,
        progress_difference=progress,
        pairs=len(set(clusters)),
        played_once=len(set(clusters)) == len(both) and all(len(first) == len(second) == 1 for first, second in both),
        only_a=only_a,
        only_b=only_b,
        left_out=len(judged) - len(both),
        p_value=p_value,
        progress_p_value=progress_p_value,
        verdict=_verdict(success, only_a + only_b, p_value),
        progress_verdict=_verdict(progress, more_a + more_b, progress_p_value),
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value: the differing pairs against a fair coin (McNemar 1947, exact binomial form)."""
    n = only_a + only_b
    tail: int = sum(comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**n))


def _verdict(difference: Rate, differing: int, p_value: float) -> Verdict:
    if differing < MIN_DIFFERING:
        return "too few episodes differ"
    if p_value < SIGNIFICANCE and difference.low is not None and difference.high is not None:
        if difference.low > 0:
            return "better"
        if difference.high < 0:
            return "worse"
    return "no difference shown"


def _attempts(episodes: Iterable[Episode]) -> Attempts:
    found: Attempts = {}
    for episode in episodes:
        found.setdefault((episode.benchmark, episode.id), []).append(episode)
    return found


def _evidence(attempts: Sequence[Episode]) -> list[Episode]:
    return [attempt for attempt in attempts if attempt.is_evidence]


def _successes(attempts: Sequence[Episode]) -> Fraction:
    return Fraction(sum(attempt.success for attempt in attempts), len(attempts))


def _progress(attempts: Sequence[Episode]) -> Fraction:
    return sum((Fraction(attempt.progress) for attempt in attempts), Fraction()) / len(attempts)


def _ahead(differences: Sequence[Fraction], clusters: Sequence[str]) -> tuple[int, int]:
    """In how many pairs the first model is ahead, and in how many the second. Fractions, so that equals differ by 0."""
    by_pair: dict[str, Fraction] = {}
    for cluster, difference in zip(clusters, differences, strict=True):
        by_pair[cluster] = by_pair.get(cluster, Fraction()) + difference
    return sum(total > 0 for total in by_pair.values()), sum(total < 0 for total in by_pair.values())
