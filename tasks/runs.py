"""A model's results as its MLflow run: read from the files that the stages left."""

from collections.abc import Mapping
from pathlib import Path

from agentrefine.files import read_result
from agentrefine.params import Params
from agentrefine.report.document import episodes_to_read
from agentrefine.report.figures import curves, flat_metrics
from agentrefine.report.inputs import Project, model_summary, notable_episodes, seconds_per_episode
from agentrefine.tuning.cards import TuningFigures
from agentrefine.tuning.results import LossPoint, ValidationPoint, read_curve
from tasks import traces, tracking


def log_tuning_of(variant: str, run_id: str, params: Params) -> None:
    """Log a tuned variant.

    Raises:
        UserError: a file is missing, or a tracking store that cannot be used.
    """
    project = Project()
    folder = project.tuning(variant)
    figures = read_result(folder / "metrics.json", TuningFigures, f"tuning@{variant}")
    tracking.log_tuning(
        run_id,
        params,
        data_set=Path(params.tuning.variants[variant].data_set) / "train.jsonl",
        curve=read_curve(folder / "loss_curve.csv", LossPoint),
        validation_curve=read_curve(folder / "validation_curve.csv", ValidationPoint),
        metrics=_numbers(figures.model_dump()),
        folder=Path("models") / variant,
    )


def log_evaluation_of(model: str, run_id: str, params: Params) -> None:
    """Log the evaluation of a model.

    Raises:
        UserError: a file is missing, or a tracking store that cannot be used.
    """
    project = Project()
    summaries = model_summary(project, model)
    seconds = seconds_per_episode(project, model)
    notable = notable_episodes(project.episodes(model))
    tracking.log_evaluation(
        run_id,
        params,
        metrics={
            **flat_metrics(summaries),
            **{f"{benchmark}/seconds_per_episode": value for benchmark, value in seconds.items()},
        },
        curves=curves(summaries),
        folder=project.evaluation(model),
        sample=episodes_to_read(model, notable),
    )
    traces.log_traces(run_id, notable, params.tracking)


def _numbers(figures: Mapping[str, object]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
