"""What a model's run shows of its results: a few metrics, and one table with all the others.

Metrics are named by what is measured, then where, so that MLflow draws one group of charts for each of them:

    success/<benchmark>    share of the episodes that were solved
    progress/<benchmark>   mean share of the goals that were reached
    recovery/<benchmark>   share of the errors after which the next turn is valid and different
    heldout_success        mean of success/<benchmark> over all benchmarks that were played, each counted once
    tuning/...             curves over the optimizer steps: loss, validation_loss, learning_rate, gradient_norm,
                           tokens_per_second

`results.json` has every rate with its interval, the paired comparisons and all breakdowns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from agentrefine.evaluation.metrics import BenchmarkSummary, Comparison, Rate
from agentrefine.report.figures import label

LOSS = "tuning/loss"
VALIDATION_LOSS = "tuning/validation_loss"
LEARNING_RATE = "tuning/learning_rate"
GRADIENT_NORM = "tuning/gradient_norm"
SPEED = "tuning/tokens_per_second"

HELDOUT_SUCCESS = "heldout_success"
TABLE = "results.json"
"""The artifact with the table."""

DIGITS = 4
"""Digits after the point of the metrics of an evaluation, which MLflow shows with all that they have."""

HEADLINE = {"success": "success_rate", "progress": "progress_rate", "recovery": "recovery_rate"}
"""Metrics of each benchmark, by the names of the rates in `BenchmarkSummary`."""

EVALUATED = (*(f"{name}/" for name in HEADLINE), HELDOUT_SUCCESS)
"""Beginnings of the names of all metrics that come from an evaluation."""


class Point(NamedTuple):
    """A point of a curve: `Point(step=14, value=6.4848)`."""

    step: int
    value: float


class ResultRow(NamedTuple):
    """A line of the table.

    Example: `ResultRow("babyai", "success rate", "", value=0.42, low=0.29, high=0.56, n=50)`

    Attributes:
        benchmark: its name.
        metric: what was measured, in words.
        part: what the line is about: a task, a difficulty, a perturbation, errors of a kind, or k attempts; empty for
            the whole benchmark.
        value, low, high: with its 95% interval, None where there is none.
        n: how many episodes, turns or pairs it is of.
    """

    benchmark: str
    metric: str
    part: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None


def headline_metrics(summaries: Mapping[str, BenchmarkSummary]) -> dict[str, float]:
    """The metrics of an evaluation; without what was not measured."""
    found = {
        f"{name}/{benchmark}": round(rate.value, DIGITS)
        for benchmark, summary in summaries.items()
        for name, rate in ((name, summary.rates()[key]) for name, key in HEADLINE.items())
        if rate.value is not None
    }
    solved = [summary.success_rate.value for summary in summaries.values() if summary.success_rate.value is not None]
    return found | ({HELDOUT_SUCCESS: round(fmean(solved), DIGITS)} if solved else {})


def result_rows(
    summaries: Mapping[str, BenchmarkSummary],
    seconds: Mapping[str, float],
    comparisons: Sequence[Comparison] = (),
) -> list[ResultRow]:
    """The table: first the headline rates of all benchmarks, then comparisons, further rates and breakdowns."""
    return [
        *(
            _row(benchmark, key, summary.rates()[key])
            for benchmark, summary in summaries.items()
            for key in HEADLINE.values()
        ),
        *_compared(comparisons),
        *_further(summaries, seconds),
        *_parts(summaries),
    ]


def _compared(comparisons: Iterable[Comparison]) -> Iterator[ResultRow]:
    for found in comparisons:
        rate = found.success_difference
        against = label(found.b)
        yield _row(found.benchmark, f"success minus that of {against}: {found.verdict}", rate)
        yield _row(
            found.benchmark, f"progress minus that of {against}: {found.progress_verdict}", found.progress_difference
        )
        yield ResultRow(found.benchmark, f"p of success against {against}", "", found.p_value, None, None, found.pairs)


def _further(summaries: Mapping[str, BenchmarkSummary], seconds: Mapping[str, float]) -> Iterator[ResultRow]:
    for benchmark, summary in summaries.items():
        for key, rate in summary.rates().items():
            if key not in HEADLINE.values():
                yield _row(benchmark, key, rate)
        figures = {**summary.figures(), **{f"stopped: {why}": float(n) for why, n in summary.stops.items()}}
        if benchmark in seconds:
            figures["seconds_per_episode"] = seconds[benchmark]
        for key, value in figures.items():
            yield ResultRow(benchmark, label(key), "", value, None, None, None)


def _parts(summaries: Mapping[str, BenchmarkSummary]) -> Iterator[ResultRow]:
    for benchmark, summary in summaries.items():
        perturbed = {} if summary.robustness is None else summary.robustness.perturbations
        for kind, groups in (
            ("task", summary.by_task), ("difficulty", summary.by_difficulty), ("paraphrase", perturbed),
        ):  # fmt: skip
            for group, reached in groups.items():
                for key, rate in reached:
                    yield _row(benchmark, key, rate, f"{kind} {label(group)}")
        for error, rate in summary.recovery_by_kind.items():
            yield _row(benchmark, "recovery_rate", rate, f"after {label(error)}")
        for k, rate in enumerate(summary.success_in_all_k, start=1):
            yield _row(benchmark, "success_in_all_k", rate, f"k = {k}")


def _row(benchmark: str, metric: str, rate: Rate, part: str = "") -> ResultRow:
    return ResultRow(benchmark, label(metric), part, rate.value, rate.low, rate.high, rate.n)
