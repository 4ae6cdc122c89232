"""The numbers of the report's figures: rows from typed results."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from agentrefine.evaluation.metrics import BenchmarkSummary, Comparison, Rate
from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.report.inputs import Results, benchmarks
from agentrefine.tuning.results import LossPoint

Models = Mapping[str, Mapping[str, BenchmarkSummary]]
"""What each model reached, by benchmark."""


MIN_ERRORS = 10
"""From so many errors on a rate after them is shown; the intervals of fewer say nothing."""


class Bar(NamedTuple):
    """A line of success.csv or recovery.csv: a rate of one model on one benchmark, with its 95% interval, in [0, 1].

    Example: `Bar("babyai", "refinement", value=0.42, low=0.29, high=0.56, n=50)`
    """

    benchmark: str
    model: str
    value: float
    low: float
    high: float
    n: int

    @property
    def is_something(self) -> bool:
        """Whether there is more to see than zero."""
        return self.value > 0


class StepPoint(NamedTuple):
    """A line of progress.csv: mean best progress and share of solved episodes after so many steps, with 95% intervals.

    Example: `StepPoint("babyai", "refinement", step=3, progress=0.5, progress_low=0.4, ..., success=0.1, ...)`
    """

    benchmark: str
    model: str
    step: int
    progress: float
    progress_low: float
    progress_high: float
    success: float
    success_low: float
    success_high: float

    @property
    def is_something(self) -> bool:
        """Whether there is more to see than zero."""
        return self.progress > 0


class PerturbationBar(NamedTuple):
    """A line of wordings.csv: success under one perturbation of the actions (`wording` in the file) with its 95%
    interval; beside it mean and standard deviation over all perturbations.

    Example: `PerturbationBar("worlds_perturbed", "refinement", "short", 0.6, 0.31, 0.83, mean=0.3, std=0.42)`
    """

    benchmark: str
    model: str
    perturbation: str
    value: float
    low: float
    high: float
    mean: float
    std: float

    @property
    def is_something(self) -> bool:
        """Whether there is more to see than zero."""
        return self.value > 0


class KindBar(NamedTuple):
    """A line of recovery_by_kind.csv: `recovery_rate` of one model after one kind of error, with its 95% interval.

    Example: `KindBar("worlds_layouts", "refinement", "place_error", value=0.42, low=0.29, high=0.56, n=50)`
    """

    benchmark: str
    model: str
    kind: str
    value: float
    low: float
    high: float
    n: int

    @property
    def is_something(self) -> bool:
        """Whether there is more to see than zero."""
        return self.value > 0


class Difference(NamedTuple):
    """A line of differences.csv: success and progress of one model minus those of another on the same episodes, with
    95% intervals, in [-1, 1].

    Example: `Difference("babyai", "refinement", "expert_only", 0.45, 0.25, 0.65, ..., 0.0039, "better")`
    """

    benchmark: str
    model: str
    against: str
    value: float
    low: float
    high: float
    progress: float
    progress_low: float
    progress_high: float
    p_value: float
    verdict: str

    @property
    def is_something(self) -> bool:
        """Whether the two models differ at all."""
        return self.value != 0 or self.progress != 0


class LossRow(NamedTuple):
    """A line of loss.csv: `LossRow("refinement", step=14, tokens=37771, loss=6.4848)`."""

    model: str
    step: int
    tokens: int
    loss: float


Row: TypeAlias = Bar | StepPoint | PerturbationBar | KindBar | Difference | LossRow
"""A row of a figure's numbers."""


def label(name: str) -> str:
    """A model's or benchmark's name as people read it."""
    return name.replace("_", " ")


def loss_rows(curves: Mapping[str, Sequence[LossPoint]]) -> list[LossRow]:
    """The loss curves of several models as one table."""
    return [LossRow(model, p.step, p.tokens, p.loss) for model, points in curves.items() for p in points]


def rate_bars(models: Models, name: Literal["success_rate", "recovery_rate"]) -> list[Bar]:
    """One rate of all models, benchmark by benchmark; without what was not measured."""
    return [
        Bar(benchmark, model, *interval, rate.n)
        for benchmark, model, summary in played(models)
        for rate in [summary.rates()[name]]
        for interval in _measured(rate)
    ]


def step_points(models: Models) -> list[StepPoint]:
    """Progress and success over the steps, benchmark by benchmark."""
    return [
        StepPoint(benchmark, model, step, *progress, *success)
        for benchmark, model, summary in played(models)
        for step, (progress, success) in enumerate(
            zip(summary.progress_by_step.points(), summary.success_by_step.points(), strict=True)
        )
    ]


def perturbation_bars(models: Models) -> list[PerturbationBar]:
    """Success under each perturbation, of the benchmarks that play the same worlds with several."""
    return [
        PerturbationBar(benchmark, model, name, *interval, mean, found.success_std)
        for benchmark, model, summary in played(models)
        if (found := summary.robustness) is not None and found.success_std is not None
        for mean, *_ in _measured(found.mean.success_rate)
        for name, reached in found.perturbations.items()
        for interval in _measured(reached.success_rate)
    ]


def kind_bars(models: Models) -> list[KindBar]:
    """Recovery by kind of error, benchmark by benchmark; without kinds that a model made too few errors of.

    Benchmarks with one kind alone are left out: `recovery_rate` says the same.
    """
    bars = [
        KindBar(benchmark, model, kind, *interval, rate.n)
        for benchmark, model, summary in played(models)
        for kind, rate in summary.recovery_by_kind.items()
        if rate.n >= MIN_ERRORS
        for interval in _measured(rate)
    ]
    kinds: dict[str, set[str]] = {}
    for bar in bars:
        kinds.setdefault(bar.benchmark, set()).add(bar.kind)
    return [bar for bar in bars if len(kinds[bar.benchmark]) > 1]


def differences(comparisons: Iterable[Comparison]) -> list[Difference]:
    """Model against model; without those that share no episode with evidence."""
    return [
        Difference(found.benchmark, found.a, found.b, *success, *progress, found.p_value, found.verdict)
        for found in comparisons
        for success in _measured(found.success_difference)
        for progress in _measured(found.progress_difference)
    ]


def informative(rows: Sequence[Row], at_chance: Collection[str]) -> list[Row]:
    """Without the benchmarks of which a figure says nothing: all is zero, or nobody is above chance (`at_chance`)."""
    worth = {row.benchmark for row in rows if not isinstance(row, LossRow) and row.is_something} - set(at_chance)
    return [row for row in rows if isinstance(row, LossRow) or row.benchmark in worth]


def comparison_table(comparisons: Iterable[Comparison]) -> dict[str, dict[str, dict[str, Any]]]:
    """Every comparison by model and benchmark, without intervals."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for found in comparisons:
        table.setdefault(f"{found.a} against {found.b}", {})[found.benchmark] = {
            "success_difference": found.success_difference.value,
            "progress_difference": found.progress_difference.value,
            "p_value": found.p_value,
            "verdict": found.verdict,
            "progress_verdict": found.progress_verdict,
        }
    return table


def headline_metrics(params: Params, results: Results) -> dict[str, Any]:
    """The few numbers that DVC shows beside those of other runs: one column each, which is why they are few.

    Example: `{"success": {"expert_only": 0.68, "refinement": 0.8}, "kept_share": 0.926, "cost_usd": 0.0}`

    Success is that of the tuned models and endpoints (of the base, where it is alone) on the benchmark that decides.
    """
    benchmark = params.report.champion_benchmark
    names = [*(model for model in params.evaluation.models if model != BASE), *params.evaluation.endpoints] or [BASE]
    return {
        "success": {
            model: results.models[model][benchmark].success_rate.value
            for model in names
            if benchmark in results.models[model]
        },
        "kept_share": results.repair.kept / results.repair.samples,
        "cost_usd": results.repair.with_synthesis.cost_usd,
    }


def played(models: Models) -> Iterator[tuple[str, str, BenchmarkSummary]]:
    """Benchmark, model and summary, benchmark by benchmark."""
    for benchmark in benchmarks(models):
        for model, summaries in models.items():
            if benchmark in summaries:
                yield benchmark, model, summaries[benchmark]


def _measured(rate: Rate) -> Sequence[tuple[float, float, float]]:
    """Value and interval, or nothing."""
    if rate.value is None or rate.low is None or rate.high is None:
        return []
    return [(rate.value, rate.low, rate.high)]
