"""Rates of played episodes with their uncertainty, and the paired comparison of two models.

Shares of episodes have Wilson's score interval (Wilson 1927). Means, and rates over steps, have a percentile bootstrap
that draws whole episodes: the steps of one episode are not independent. All intervals are at 95%.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import comb, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from agentrefine.agent.episode import Episode
from agentrefine.errors import UserError

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""

BOOTSTRAP_DRAWS = 2000
BOOTSTRAP_SEED = 0
STUCK_REPEATS = 3


class Rate(BaseModel):
    """A rate or mean with its 95% interval.

    Attributes:
        value, low, high: the estimate and its interval; all None when n is 0.
        n: what it is a share or mean of: episodes, or steps.
    """

    model_config = ConfigDict(frozen=True)

    value: float | None
    low: float | None
    high: float | None
    n: int


class Comparison(BaseModel):
    """Two models on the same episodes, paired: differences are `a` minus `b`.

    Attributes:
        benchmark: the benchmark's name; empty when the episodes are of several.
        a, b: the models' names.
        success_difference, progress_difference: with the paired bootstrap's interval, in [-1, 1].
        only_a, only_b: episodes that only one of the two solved.
        p_value: McNemar's exact two-sided test of equal success.
        verdict: `better` or `worse` when the interval of the success difference excludes 0 and the exact test agrees at
            5% (with few differing episodes the bootstrap alone is too sure).
    """

    model_config = ConfigDict(frozen=True)

    benchmark: str
    a: str
    b: str
    success_difference: Rate
    progress_difference: Rate
    only_a: int
    only_b: int
    p_value: float
    verdict: Literal["better", "worse", "no difference beyond its interval"]


def share(successes: int, n: int) -> Rate:
    """A share of independent trials with Wilson's score interval."""
    if n == 0:
        return Rate(value=None, low=None, high=None, n=0)
    p = successes / n
    denominator = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / denominator
    half = Z95 / denominator * sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    # At 0 and 1 the bound is exact, but rounding may miss it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Rate(value=p, low=low, high=high, n=n)


def ratio(numerators: Sequence[float], denominators: Sequence[int]) -> Rate:
    """Sum of numerators over sum of denominators, one of each per episode; episodes are drawn as wholes.

    `n` is the sum of the denominators. With a single episode the interval has no width: there is nothing to draw from.
    """
    total = sum(denominators)
    if total == 0:
        return Rate(value=None, low=None, high=None, n=0)
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    draws = _draws(len(top))
    drawn_bottom = draws @ bottom
    defined = drawn_bottom > 0
    low, high = _percentiles((draws @ top)[defined] / drawn_bottom[defined])
    return Rate(value=float(top.sum() / bottom.sum()), low=low, high=high, n=total)


def mean(values: Sequence[float]) -> Rate:
    """A mean over episodes with its bootstrap interval."""
    return ratio(values, [1] * len(values))


def _draws(n: int) -> NDArray[np.int64]:
    """How often each of `n` episodes is drawn, one row a bootstrap sample."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    return generator.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP_DRAWS)


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def summarise(episodes: Iterable[Episode]) -> dict[str, dict[str, Any]]:
    """The rates of one model by benchmark, ready for JSON.

    Each rate is `{value, low, high, n}`; a value is None where nothing was measured (n is 0). Success and progress are
    also given by task, variant and difficulty where there are several of them. An episode that ended by an environment
    error or a full context counts as it stood then; `stops` says how many of each there are.
    """
    by_benchmark: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_benchmark.setdefault(episode.benchmark, []).append(episode)
    return {name: _summary(played) for name, played in by_benchmark.items()}


def _summary(episodes: list[Episode]) -> dict[str, Any]:
    steps = [len(episode.steps) for episode in episodes]
    chances = [_recovery_chances(episode) for episode in episodes]
    rates = {
        **_outcome(episodes),
        "grounding": ratio([sum(s.valid for s in e.steps) for e in episodes], steps),
        "format_error_rate": ratio([sum(s.format_error for s in e.steps) for e in episodes], steps),
        "stuck_rate": share(sum(is_stuck(episode) for episode in episodes), len(episodes)),
        "recovery_rate": ratio([sum(recovered) for recovered in chances], [len(recovered) for recovered in chances]),
        "mean_steps": mean(steps),
        "mean_prompt_tokens": mean([episode.prompt_tokens for episode in episodes]),
        "mean_completion_tokens": mean([episode.completion_tokens for episode in episodes]),
    }
    return {
        "episodes": len(episodes),
        **{name: rate.model_dump() for name, rate in rates.items()},
        "stops": dict(sorted(Counter(episode.stop for episode in episodes).items())),
        "episodes_with_cut_history": sum(any(s.turns_cut for s in e.steps) for e in episodes),
        "by_task": _breakdown(episodes, lambda episode: episode.task),
        "by_variant": _breakdown(episodes, lambda episode: episode.variant),
        "by_difficulty": _breakdown(episodes, lambda episode: episode.difficulty),
        "progress_by_step": progress_by_step(episodes),
    }


def _outcome(episodes: Sequence[Episode]) -> dict[str, Rate]:
    return {
        "success_rate": share(sum(episode.success for episode in episodes), len(episodes)),
        "progress_rate": mean([episode.progress for episode in episodes]),
    }


def _breakdown(episodes: list[Episode], label: Callable[[Episode], str]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(label(episode), []).append(episode)
    if len(groups) < 2:
        return {}
    return {
        name: {rate: value.model_dump() for rate, value in _outcome(groups[name]).items()} for name in sorted(groups)
    }


def is_stuck(episode: Episode) -> bool:
    """Whether the episode holds the same failing action, or the same malformed reply, three times or more."""
    failing = Counter(step.reply if step.format_error else step.action for step in episode.steps if step.failed)
    return any(count >= STUCK_REPEATS for count in failing.values())


def _recovery_chances(episode: Episode) -> list[bool]:
    """For each error that was followed by another turn: whether that turn was valid and different."""
    return [after.valid and after.action != before.action for before, after in pairwise(episode.steps) if before.failed]


def progress_by_step(episodes: Sequence[Episode]) -> list[float]:
    """Mean progress after 0, 1, 2, ... steps; an episode that has ended keeps its progress."""
    longest = max((len(episode.steps) for episode in episodes), default=0)
    curves = np.zeros((len(episodes), longest + 1))
    for row, episode in enumerate(episodes):
        for column, step in enumerate(episode.steps, start=1):
            curves[row, column:] = step.progress
    return [float(value) for value in curves.mean(axis=0)] if episodes else []


def compare(a: Sequence[Episode], b: Sequence[Episode]) -> Comparison:
    """Is `a` better than `b` on the episodes that both played?

    Raises:
        UserError: the two have not played the same episodes, or none.
    """
    of_a, of_b = ({(e.benchmark, e.id): e for e in episodes} for episodes in (a, b))
    if not of_a or of_a.keys() != of_b.keys():
        raise UserError(
            f"two models cannot be paired: {len(of_a.keys() - of_b.keys())} episodes were played by the first only, "
            f"{len(of_b.keys() - of_a.keys())} by the second only, {len(of_a.keys() & of_b.keys())} by both; "
            "evaluate both with the same parameters."
        )
    pairs = [(of_a[key], of_b[key]) for key in sorted(of_a)]
    only_a = sum(first.success and not second.success for first, second in pairs)
    only_b = sum(second.success and not first.success for first, second in pairs)
    success = mean([first.success - second.success for first, second in pairs])
    p_value = mcnemar_exact(only_a, only_b)
    verdict: Literal["better", "worse", "no difference beyond its interval"] = "no difference beyond its interval"
    if p_value < 0.05 and success.low is not None and success.high is not None:
        if success.low > 0:
            verdict = "better"
        elif success.high < 0:
            verdict = "worse"
    benchmarks = {benchmark for benchmark, _ in of_a}
    return Comparison(
        benchmark=benchmarks.pop() if len(benchmarks) == 1 else "",
        a=pairs[0][0].model,
        b=pairs[0][1].model,
        success_difference=success,
        progress_difference=mean([first.progress - second.progress for first, second in pairs]),
        only_a=only_a,
        only_b=only_b,
        p_value=p_value,
        verdict=verdict,
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value: the differing pairs against a fair coin (McNemar 1947, exact binomial form)."""
    n = only_a + only_b
    tail: int = sum(comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, float(2 * tail / 2**n))
