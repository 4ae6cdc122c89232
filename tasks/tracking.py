"""What MLflow keeps of a model: one run.

Tuning, evaluation and report are processes of their own. They find the same run again by the digest of the model's
files, so a repeated evaluation updates its run and a newly tuned model opens a new one.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import nan
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from prefect.runtime import flow_run
from sqlalchemy.exc import SQLAlchemyError

from agentrefine.errors import UserError
from agentrefine.files import sha256_file
from agentrefine.params import Params, TrackingParams
from agentrefine.proxies import check_proxy
from agentrefine.tuning.results import ValidationPoint
from tasks.provenance import dvc_md5, flatten, git_commit, without_credentials

MODEL_SECTIONS = ("seed", "personas", "teacher", "synthesis", "verification", "refinement", "quality_gate")
TUNED_SECTIONS = (*MODEL_SECTIONS, "base_model", "tuning")
BASE_SECTIONS = ("seed", "base_model")
"""Sections of params.yaml that decide what a model's files hold; only these are a run's parameters."""

EVALUATION, MODEL = "evaluation", "model"
"""Folders of a run's artifacts."""

LOSS, VALIDATION_LOSS = "tuning/loss", "tuning/validation_loss_by_step"
"""Metrics that hold a curve."""


def run_for(model: str, digest: str, tracking: TrackingParams) -> str:
    """The id of the run that holds a model; made when there is none.

    Args:
        model: `base`, a variant, or an endpoint's name.
        digest: what identifies its files (`agentrefine.tuning.models.model_digest`).
        tracking: where runs are kept.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        experiment_id = _experiment(client, tracking)
        found = _find(client, experiment_id, model, digest)
        if found is not None:
            return found
        run_id = _new_run(client, experiment_id, f"{model}-{digest[:6]}", {"model": model, "model_digest": digest})
        client.set_terminated(run_id)
        return run_id


@contextmanager
def live_run(model: str, tracking: TrackingParams) -> Iterator[str]:
    """A run to watch while a model is being tuned; yields its id. If tuning fails, the run is marked as failed.

    The model's digest is not known yet: `adopt` gives the run its identity when it is. A store that cannot be reached
    any more when tuning fails does not hide why it failed.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        run_id = _new_run(client, _experiment(client, tracking), model, {"model": model})
        _tag_flow_run(client, run_id, "tuning")
    try:
        yield run_id
    except BaseException:
        with suppress(UserError), store(tracking) as client:
            client.set_terminated(run_id, "FAILED")
        raise


def adopt(run_id: str, model: str, digest: str, tracking: TrackingParams) -> str:
    """Make a live run the run of the model that came out of it; returns the id of that model's run.

    When tuning gave the same bytes as before, the earlier run stays, since the registry may refer to it, and the live
    one is deleted.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        earlier = _find(client, _experiment(client, tracking), model, digest)
        if earlier is not None and earlier != run_id:
            client.delete_run(run_id)
            return earlier
        client.set_tag(run_id, "model_digest", digest)
        client.update_run(run_id, name=f"{model}-{digest[:6]}")
        client.set_terminated(run_id)
        return run_id


def log_points(run_id: str, tracking: TrackingParams, points: Sequence[ValidationPoint], name: str) -> None:
    """Add points to a run's `LOSS` or `VALIDATION_LOSS`; those up to its last step are there already.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        _log_curve(client, run_id, points, name)


def log_tuning(
    run_id: str,
    params: Params,
    *,
    data_set: Path,
    curve: Sequence[ValidationPoint],
    validation_curve: Sequence[ValidationPoint],
    metrics: Mapping[str, float],
    folder: Path,
) -> None:
    """Log what made a tuned model: parameters, data set, loss curve, final figures, and the model's files.

    Args:
        run_id: from `run_for`.
        params: those that the model was tuned with.
        data_set: the file of training samples.
        curve: the loss curve; what was logged live is not logged again.
        validation_curve: the validation loss in between; logged as `tuning/validation_loss_by_step`.
        metrics: final figures of tuning; logged as `tuning/<name>`.
        folder: the adapter or model, kept as the run's artifact `model`.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(params.tracking) as client:
        _log_params(client, run_id, flatten(params, TUNED_SECTIONS))
        client.log_inputs(run_id, [data_set_input(data_set)])
        _log_curve(client, run_id, curve)
        _log_curve(client, run_id, validation_curve, VALIDATION_LOSS)
        _log_metrics(client, run_id, {f"tuning/{name}": value for name, value in metrics.items()})
        client.log_artifacts(run_id, str(folder), MODEL)
        _tag_flow_run(client, run_id, "tuning")


def log_base(run_id: str, params: Params, folder: Path | None = None) -> None:
    """Log what made the base model: parameters and, where it was made here, its files.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(params.tracking) as client:
        _log_params(client, run_id, flatten(params, BASE_SECTIONS))
        if folder is not None:
            client.log_artifacts(run_id, str(folder), MODEL)


def log_evaluation(
    run_id: str,
    params: Params,
    *,
    metrics: Mapping[str, float],
    curves: Mapping[str, Sequence[float]],
    folder: Path,
    sample: str,
) -> None:
    """Log what a model reached: rates with their intervals, curves over the steps, all episodes, and some to read.

    The settings of the evaluation are tags, because the same model may be evaluated again with others. A run shows its
    last evaluation: a metric of an earlier one that this one does not measure becomes NaN.

    Args:
        run_id: from `run_for`.
        params: those of the evaluation.
        metrics: such as `worlds_layouts/success_rate`, `worlds_layouts/success_rate_low`.
        curves: such as `worlds_layouts/progress_by_step`; the first number is that after no step.
        folder: `data/evaluation/<model>` with `episodes.jsonl`, which registration reads back, and `details.json`.
        sample: some episodes as Markdown.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(params.tracking) as client:
        known = client.get_run(run_id).data.metrics
        earlier = {name for name in known if "/" in name and not name.startswith("tuning/")} - set(curves)
        _log_metrics(client, run_id, {**dict.fromkeys(earlier, nan), **metrics})
        for key, value in flatten(params, ("evaluation",)).items():
            client.set_tag(run_id, key, value)
        for name, values in curves.items():
            _log_steps(client, run_id, name, values)
        for file in ("episodes.jsonl", "details.json"):
            client.log_artifact(run_id, str(folder / file), EVALUATION)
        client.log_text(run_id, sample, f"{EVALUATION}/sample.md")
        _tag_flow_run(client, run_id, "evaluation")


def log_metrics(run_id: str, tracking: TrackingParams, metrics: Mapping[str, float]) -> None:
    """Add single numbers to a run.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        _log_metrics(client, run_id, metrics)


def describe(run_id: str, tracking: TrackingParams, text: str, tags: Mapping[str, str]) -> None:
    """Give a run a description, which MLflow's page shows above everything else, and tags.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        for name, value in {MLFLOW_RUN_NOTE: text, **tags}.items():
            client.set_tag(run_id, name, value)


def holds(run_id: str, folder: str, tracking: TrackingParams) -> bool:
    """Whether a run has artifacts in `folder` (`MODEL` or `EVALUATION`).

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        return bool(client.list_artifacts(run_id, folder))


def log_plots(run_id: str, tracking: TrackingParams, plots: Sequence[Path]) -> None:
    """Keep figures as the run's artifacts under `plots/`.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        for plot in plots:
            client.log_artifact(run_id, str(plot), "plots")


def data_set_input(path: Path, lock: Path = Path("dvc.lock")) -> DatasetInput:
    """A data set as a run's input: its digest is DVC's hash where dvc.lock has one, else SHA-256 (its first half)."""
    sha256 = sha256_file(path)
    md5 = dvc_md5(path, lock)
    data_set = Dataset(
        name=path.as_posix(),
        digest=md5 or sha256[:32],  # MLflow takes 36 characters at most
        source_type="local",
        source=json.dumps({"uri": path.as_posix()}),
        profile=json.dumps({"sha256": sha256, "dvc_md5": md5, "bytes": path.stat().st_size}),
    )
    return DatasetInput(data_set, tags=[InputTag("mlflow.data.context", "tuning")])


@contextmanager
def store(tracking: TrackingParams) -> Iterator[MlflowClient]:
    """A client of the tracking store.

    Raises:
        UserError: the tracking store cannot be reached or used; one sentence without credentials.
    """
    check_proxy(tracking.uri, "tracking.uri")
    try:
        yield MlflowClient(tracking.uri)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        address = without_credentials(tracking.uri)
        reason = str(error).partition("\n")[0].replace(tracking.uri, address)[:200]
        raise UserError(
            "store_unusable",
            f"tracking.uri {address}: MLflow cannot use it ({reason}); start its server or correct params.yaml.",
            key="tracking.uri",
        ) from error


def quotable(text: str) -> str:
    """The text as it can stand between quotes in a filter of MLflow's searches."""
    return text.replace("'", "")


def _experiment(client: MlflowClient, tracking: TrackingParams) -> str:
    found = client.get_experiment_by_name(tracking.experiment)
    return str(found.experiment_id if found else client.create_experiment(tracking.experiment))


def _find(client: MlflowClient, experiment_id: str, model: str, digest: str) -> str | None:
    wanted = f"tags.model_digest = '{quotable(digest)}' and tags.model = '{quotable(model)}'"
    runs = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"], max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _new_run(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    commit = {"mlflow.source.git.commit": git_commit()}
    return str(client.create_run(experiment_id, tags={**tags, **commit}, run_name=name).info.run_id)


def _tag_flow_run(client: MlflowClient, run_id: str, stage: str) -> None:
    if flow_run.id:
        client.set_tag(run_id, f"prefect_flow_run_id.{stage}", flow_run.id)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Add what the run does not hold yet: MLflow's parameters cannot change, and equal bytes need no other ones."""
    known = client.get_run(run_id).data.params
    fresh = [Param(key, value) for key, value in params.items() if key not in known]
    for start in range(0, len(fresh), 100):
        client.log_batch(run_id, params=fresh[start : start + 100])


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float]) -> None:
    now = int(time.time() * 1000)
    rows = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
    for start in range(0, len(rows), 1000):
        client.log_batch(run_id, metrics=rows[start : start + 1000])


def _log_steps(client: MlflowClient, run_id: str, name: str, values: Sequence[float]) -> None:
    """Log a curve over the steps of an episode anew.

    An earlier evaluation may have had more steps, and MLflow forgets none: the last value then stands for these too, as
    what has ended keeps what it reached.
    """
    known = client.get_metric_history(run_id, name)
    last = max([len(values) - 1, *(metric.step for metric in known)])
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, values[min(step, len(values) - 1)], now, step) for step in range(last + 1) if values],
    )


def _log_curve(client: MlflowClient, run_id: str, curve: Sequence[ValidationPoint], name: str = LOSS) -> None:
    known = client.get_metric_history(run_id, name) if curve else []
    last = max((metric.step for metric in known), default=-1)
    now = int(time.time() * 1000)
    rows = [
        metric
        for point in curve
        if point.step > last
        for metric in (
            Metric(name, point.loss, now, point.step),
            *([Metric("tuning/tokens_read", float(point.tokens), now, point.step)] if name == LOSS else []),
        )
    ]
    for start in range(0, len(rows), 1000):
        client.log_batch(run_id, metrics=rows[start : start + 1000])
