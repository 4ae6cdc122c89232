"""What the runs hold: files of a model, data set, curves, metrics, the result table, episodes to read.

Every function raises `UserError` where the tracking store cannot be reached or used.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from statistics import mean

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_RUN_NOTE

from agentrefine.evaluation.metrics import BenchmarkSummary, Comparison
from agentrefine.files import read_result
from agentrefine.params import Params, TrackingParams
from agentrefine.params.tuning import BASE
from agentrefine.quality.data_set import DATA_SET
from agentrefine.quality.gate_result import GateResult
from agentrefine.report.document import caveats, episodes_to_read
from agentrefine.report.inputs import Project, base_card, model_summary, notable_episodes, seconds_per_episode
from agentrefine.tuning.cards import TuningFigures, quantisation_of
from agentrefine.tuning.results import LossPoint, ValidationPoint, read_curve
from tasks.tracking.agent import log_model
from tasks.tracking.data_sets import data_set_input
from tasks.tracking.measures import (
    EVALUATED,
    HELDOUT_SUCCESS,
    LEARNING_RATE,
    LOSS,
    TABLE,
    VALIDATION_LOSS,
    Point,
    ResultRow,
    headline_metrics,
    result_rows,
)
from tasks.tracking.notes import evaluation_note, model_note
from tasks.tracking.runs import Evaluated, models_of, tag, variant_of
from tasks.tracking.settings import resolved
from tasks.tracking.store import log_values, store
from tasks.tracking.traces import log_traces

ON_POLICY = Path("data/on_policy")

PARAMS = "params.yaml"
"""The artifact with all parameters."""


def log_base(run_id: str, params: Params, folder: Path | None = None) -> None:
    """Log the base model: parameters and, where it was made here, its files."""
    with store(params.tracking) as client:
        client.log_text(run_id, resolved(params), PARAMS)
        if folder is not None:
            log_model(client, run_id, folder, folder, params.evaluation.max_new_tokens)


def log_tuning(variant: str, run_id: str, params: Params) -> None:
    """Log what made a tuned model: parameters, data set, loss curves and the model's files.

    Points of a curve that were logged live are not logged again.

    Raises:
        UserError: a file of the tuning is missing, or the tracking store cannot be reached or used.
    """
    folder = Project().tuning(variant)
    figures = read_result(folder / "metrics.json", TuningFigures, f"tuning@{variant}")
    curve = read_curve(folder / "loss_curve.csv", LossPoint)
    validation = [Point(p.step, p.loss) for p in read_curve(folder / "validation_curve.csv", ValidationPoint)]
    if figures.validation_loss is not None and (not validation or validation[-1].step < figures.steps):
        validation.append(Point(figures.steps, figures.validation_loss))
    data_set = Path(params.tuning.variants[variant].data_set) / "train.jsonl"
    counts = figures.rendering
    size = f"{counts.samples:,} games, {counts.tokens:,} tokens, {counts.trained_token_share:.0%} of them trained"
    models = Path("models")
    with store(params.tracking) as client:
        client.log_text(run_id, resolved(params), PARAMS)
        client.log_inputs(run_id, [data_set_input(data_set, counts, _gate(data_set.parent))])
        tag(client, run_id, {"data_set_size": size})
        _log_curve(client, run_id, LOSS, [Point(p.step, p.loss) for p in curve])
        _log_curve(client, run_id, LEARNING_RATE, [Point(p.step, p.learning_rate) for p in curve])
        _log_curve(client, run_id, VALIDATION_LOSS, validation)
        log_model(client, run_id, models / variant, models / BASE, params.evaluation.max_new_tokens)


def log_points(run_id: str, tracking: TrackingParams, points: Mapping[str, Sequence[Point]]) -> None:
    """Add points to a run's curves, by the metrics' names."""
    with store(tracking) as client:
        now = int(time.time() * 1000)
        log_values(client, run_id, (Metric(n, p.value, now, p.step) for n, found in points.items() for p in found))


def known_steps(run_id: str, tracking: TrackingParams, names: Iterable[str]) -> dict[str, set[int]]:
    """The optimizer steps whose points a run holds, by the metrics' names."""
    with store(tracking) as client:
        return {name: _known_steps(client, run_id, name) for name in names}


def log_evaluation(model: str, into: Evaluated, params: Params, project: Project = Project()) -> None:  # noqa: B008 (frozen)
    """Log what a model reached: a few metrics, the table, and some episodes to read; to its evaluation all of them.

    A run shows its last evaluation: a metric of an earlier one that this one does not measure becomes NaN. `project` is
    where the evaluation lies, by default the working folder.

    Raises:
        UserError: a file of the evaluation is missing, or the tracking store cannot be reached or used, or is of
            before MLflow 3.4.
    """
    folder = project.evaluation(model)
    summaries = model_summary(project, model)
    seconds = seconds_per_episode(project, model)
    notable = notable_episodes(project.episodes(model))
    metrics = headline_metrics(summaries)
    with store(params.tracking) as client:
        known = client.get_run(into.model).data.metrics
        earlier = {name for name in known if name.startswith(EVALUATED)}
        now = int(time.time() * 1000)
        shown = {**dict.fromkeys(earlier, nan), **metrics}
        log_values(client, into.model, (Metric(name, value, now, 0) for name, value in shown.items()))
        _log_means(client, into.model)
        log_table(client, into.model, summaries, seconds)
        for file in ("episodes.jsonl", "details.json"):  # registration reads the episodes back
            client.log_artifact(into.evaluation, str(folder / file))
        client.log_text(into.evaluation, episodes_to_read(model, notable), "sample.md")
        known_caveats = caveats(params, quantisation_of(base_card(project))).values()
        tag(client, into.model, {MLFLOW_RUN_NOTE: model_note([], summaries, known_caveats)})
        tag(client, into.evaluation, {MLFLOW_RUN_NOTE: evaluation_note(model, into.model, summaries, params)})
        log_traces(client, into.model, notable, project.times(model), seconds, params.tracking.uri)


def log_table(
    client: MlflowClient,
    run_id: str,
    summaries: Mapping[str, BenchmarkSummary],
    seconds: Mapping[str, float],
    comparisons: Sequence[Comparison] = (),
) -> None:
    """Write the result table in place of an earlier one, to which `MlflowClient.log_table` would append."""
    rows = [list(row) for row in result_rows(summaries, seconds, comparisons)]
    client.log_text(run_id, json.dumps({"columns": list(ResultRow._fields), "data": rows}), TABLE)
    client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TABLE, "type": "table"}]))


def holds(run_id: str, folder: str, tracking: TrackingParams) -> bool:
    """Whether a run has artifacts in `folder`."""
    with store(tracking) as client:
        return bool(client.list_artifacts(run_id, folder))


def _log_means(client: MlflowClient, model_run_id: str) -> None:
    """Log what all seeds of the model's variant reached on average, as far as each of them has been evaluated."""
    all_seeds = variant_of(client, model_run_id)
    if all_seeds is None:
        return
    found = [run.data.metrics for run in models_of(client, all_seeds)]
    models = [metrics for metrics in found if metrics.get(HELDOUT_SUCCESS, nan) >= 0]
    if not models:
        return
    measured = [{n for n, v in metrics.items() if n.startswith(EVALUATED) and not isnan(v)} for metrics in models]
    shared = sorted(set.intersection(*measured))
    now = int(time.time() * 1000)
    log_values(client, all_seeds, (Metric(n, mean(metrics[n] for metrics in models), now, len(models)) for n in shared))
    tag(client, all_seeds, {"seeds": str(len(models))})


def _gate(data_set: Path) -> GateResult | None:
    """What the gate said of the data set in a folder; None of one that it did not judge, as a mix."""
    reports = {
        DATA_SET: Path("reports/quality_gate"),
        ON_POLICY / data_set.name: Path("reports/on_policy", data_set.name),
    }
    file = reports.get(data_set, Path()) / "result.json"
    return read_result(file, GateResult, "quality_gate") if file.is_file() else None


def _log_curve(client: MlflowClient, run_id: str, name: str, curve: Sequence[Point]) -> None:
    """Add the points of a curve that the run does not hold."""
    known = _known_steps(client, run_id, name) if curve else set()
    now = int(time.time() * 1000)
    log_values(client, run_id, (Metric(name, p.value, now, p.step) for p in curve if p.step not in known))


def _known_steps(client: MlflowClient, run_id: str, name: str) -> set[int]:
    return {metric.step for metric in client.get_metric_history(run_id, name)}
