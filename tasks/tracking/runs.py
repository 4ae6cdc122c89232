"""What MLflow keeps of a model: one run, with its files, parameters, curves, metrics and some episodes.

Tuning, evaluation and report are processes of their own. They find the same run again by the digest of the model's
files, so a repeated evaluation updates its run and a newly tuned model opens a new one. No credentials are kept.

Every function that is given where runs are kept raises `UserError` where this store cannot be reached or used.
"""

import json
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import starmap
from math import nan
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from prefect.runtime import flow_run
from sqlalchemy.exc import SQLAlchemyError

from agentrefine.errors import UserError
from agentrefine.files import read_result, sha256_file
from agentrefine.params import Params, TrackingParams
from agentrefine.proxies import check_proxy
from agentrefine.report.document import episodes_to_read
from agentrefine.report.figures import curves, flat_metrics
from agentrefine.report.inputs import Project, model_summary, notable_episodes, seconds_per_episode
from agentrefine.tuning.cards import TuningFigures
from agentrefine.tuning.results import LossPoint, ValidationPoint, read_curve
from tasks.tracking.traces import log_traces

BASE_SECTIONS = ("seed", "base_model")
DATA_SECTIONS = ("personas", "teacher", "synthesis", "verification", "repair", "quality_gate")
"""Sections of params.yaml that decide what a model's files hold; only these are a run's parameters."""

EVALUATION, MODEL = "evaluation", "model"
"""Folders of a run's artifacts."""

LOSS, VALIDATION_LOSS = "tuning/loss", "tuning/validation_loss_by_step"
"""Metrics that hold a curve."""


def run_for(model: str, digest: str, tracking: TrackingParams) -> str:
    """The id of the run that holds a model, which its digest (`model_digest`) identifies; made when there is none."""
    with store(tracking) as client:
        experiment_id = _experiment(client, tracking)
        run_id = _find(client, experiment_id, model, digest)
        if run_id is None:
            run_id = _new_run(client, experiment_id, f"{model}-{digest[:6]}", {"model": model, "model_digest": digest})
            client.set_terminated(run_id)
        return run_id


@contextmanager
def live_run(model: str, tracking: TrackingParams) -> Iterator[str]:
    """A run to watch while a model is being tuned; yields its id. If tuning fails, the run is marked as failed.

    The model's digest is not known yet: `adopt` gives the run its identity when it is. A store that cannot be reached
    any more when tuning fails does not hide why it failed.
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
    """Add points to a run's `LOSS` or `VALIDATION_LOSS`; those up to its last step are there already."""
    with store(tracking) as client:
        _log_curve(client, run_id, points, name)


def log_base(run_id: str, params: Params, folder: Path | None = None) -> None:
    """Log what made the base model: parameters and, where it was made here, its files."""
    with store(params.tracking) as client:
        _log_params(client, run_id, flatten(params, BASE_SECTIONS))
        if folder is not None:
            client.log_artifacts(run_id, str(folder), MODEL)


def log_tuning(variant: str, run_id: str, params: Params) -> None:
    """Log what made a tuned model: parameters, data set, loss curves, final figures, and the model's files.

    Final figures are the metrics `tuning/<name>`. Points of a curve that were logged live are not logged again.

    Raises:
        UserError: a file of the tuning is missing, or the tracking store cannot be reached or used.
    """
    folder = Project().tuning(variant)
    figures = read_result(folder / "metrics.json", TuningFigures, f"tuning@{variant}").model_dump()
    numbers = {f"tuning/{name}": value for name, value in figures.items() if isinstance(value, int | float)}
    curve = read_curve(folder / "loss_curve.csv", LossPoint)
    validation_curve = read_curve(folder / "validation_curve.csv", ValidationPoint)
    data_set = Path(params.tuning.variants[variant].data_set) / "train.jsonl"
    with store(params.tracking) as client:
        _log_params(client, run_id, flatten(params, (*BASE_SECTIONS, *DATA_SECTIONS, "tuning")))
        client.log_inputs(run_id, [data_set_input(data_set)])
        _log_curve(client, run_id, curve, LOSS)
        _log_curve(client, run_id, validation_curve, VALIDATION_LOSS)
        _log_metrics(client, run_id, numbers)
        client.log_artifacts(run_id, str(Path("models") / variant), MODEL)
        _tag_flow_run(client, run_id, "tuning")


def log_evaluation(model: str, run_id: str, params: Params, project: Project = Project()) -> None:  # noqa: B008 (frozen)
    """Log what a model reached: rates with their intervals, curves over the steps, all episodes, and some to read.

    The settings of the evaluation are tags, because the same model may be evaluated again with others. A run shows its
    last evaluation: a metric of an earlier one that this one does not measure becomes NaN. `project` is where the
    evaluation lies, by default the working folder.

    Raises:
        UserError: a file of the evaluation is missing, or the tracking store cannot be reached or used, or is of
            before MLflow 3.4.
    """
    folder = project.evaluation(model)
    summaries = model_summary(project, model)
    seconds = seconds_per_episode(project, model)
    notable = notable_episodes(project.episodes(model))
    by_step = curves(summaries)
    metrics = flat_metrics(summaries) | {f"{name}/seconds_per_episode": value for name, value in seconds.items()}
    with store(params.tracking) as client:
        known = client.get_run(run_id).data.metrics
        earlier = {name for name in known if "/" in name and not name.startswith("tuning/")} - set(by_step)
        _log_metrics(client, run_id, {**dict.fromkeys(earlier, nan), **metrics})
        client.log_batch(run_id, tags=list(starmap(RunTag, flatten(params, ("evaluation",)).items())))
        for name, values in by_step.items():
            _log_steps(client, run_id, name, values)
        for file in ("episodes.jsonl", "details.json"):  # registration reads the episodes back
            client.log_artifact(run_id, str(folder / file), EVALUATION)
        client.log_text(run_id, episodes_to_read(model, notable), f"{EVALUATION}/sample.md")
        _tag_flow_run(client, run_id, "evaluation")
        log_traces(client, run_id, notable, params.tracking.uri)


def log_comparison(
    run_id: str, tracking: TrackingParams, *, metrics: Mapping[str, float], text: str, tags: Mapping[str, str]
) -> None:
    """Add how a model compares with others: the differences as metrics, with whom as tags, and the report's figures.

    `text` becomes the run's description, which MLflow's page shows above everything else.
    """
    with store(tracking) as client:
        _log_metrics(client, run_id, metrics)
        client.log_batch(run_id, tags=list(starmap(RunTag, {MLFLOW_RUN_NOTE: text, **tags}.items())))
        for plot in sorted(Path("reports/plots").glob("*.png")):
            client.log_artifact(run_id, str(plot), "plots")


def holds(run_id: str, folder: str, tracking: TrackingParams) -> bool:
    """Whether a run has artifacts in `folder` (`MODEL` or `EVALUATION`)."""
    with store(tracking) as client:
        return bool(client.list_artifacts(run_id, folder))


def data_set_input(path: Path, lock: Path = Path("dvc.lock")) -> DatasetInput:
    """A data set as a run's input: its digest is DVC's hash where dvc.lock has one, else SHA-256 (its first half)."""
    sha256 = sha256_file(path)
    md5 = _dvc_md5(path, lock)
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
    address = without_credentials(tracking.uri)
    try:
        yield MlflowClient(tracking.uri)
    except NotImplementedError as error:
        message = (
            f"tracking.uri {address}: the server cannot keep traces ({error}); use an MLflow server of version 3.4 or "
            "later with a database."
        )
        raise UserError("store_too_old", message, key="tracking.uri") from error
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = str(error).partition("\n")[0].replace(tracking.uri, address)[:200]
        message = f"tracking.uri {address}: MLflow cannot use it ({reason}); start its server or correct params.yaml."
        raise UserError("store_unusable", message, key="tracking.uri") from error


def quotable(text: str) -> str:
    """The text as it can stand between quotes in a filter of MLflow's searches."""
    return text.replace("'", "")


def flatten(params: Params, sections: Sequence[str]) -> dict[str, str]:
    """Parameters by their dotted names, lists and null as JSON. Credentials inside URLs are cut out."""
    return dict(_flat(params.model_dump(mode="json", include=set(sections)), ""))


def _flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, without_credentials(value) if isinstance(value, str) else json.dumps(value)


def without_credentials(text: str) -> str:
    """The text as it is, or, where it is a URL, without user, password and query."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if not parts.scheme or not parts.netloc:
        return text
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _dvc_md5(path: Path, lock: Path) -> str | None:
    """The hash under which DVC keeps `path`, or the folder that holds it; None when DVC has not recorded it."""
    if not lock.is_file():
        return None
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}
    return next((outs[name.as_posix()] for name in (path, *path.parents) if name.as_posix() in outs), None)


def _experiment(client: MlflowClient, tracking: TrackingParams) -> str:
    found = client.get_experiment_by_name(tracking.experiment)
    return str(found.experiment_id if found else client.create_experiment(tracking.experiment))


def _find(client: MlflowClient, experiment_id: str, model: str, digest: str) -> str | None:
    wanted = f"tags.model_digest = '{quotable(digest)}' and tags.model = '{quotable(model)}'"
    runs = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"], max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _new_run(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    """A run with the commit of the working folder, `none` outside a repository; returns its id."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    commit = {"mlflow.source.git.commit": head.stdout.strip() or "none"}
    return str(client.create_run(experiment_id, tags={**tags, **commit}, run_name=name).info.run_id)


def _tag_flow_run(client: MlflowClient, run_id: str, stage: str) -> None:
    if flow_run.id:
        client.set_tag(run_id, f"prefect_flow_run_id.{stage}", flow_run.id)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Add what the run does not hold yet: MLflow's parameters cannot change, and equal bytes need no other ones."""
    known = client.get_run(run_id).data.params
    client.log_batch(run_id, params=[Param(key, value) for key, value in params.items() if key not in known])


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float]) -> None:
    _log_values(client, run_id, ((name, value, 0) for name, value in metrics.items()))


def _log_steps(client: MlflowClient, run_id: str, name: str, values: Sequence[float]) -> None:
    """Log a curve over the steps of an episode in place of an earlier one.

    An earlier evaluation may have had more steps, and MLflow forgets none: the last value then stands for these too, as
    what has ended keeps what it reached.
    """
    known = client.get_metric_history(run_id, name)
    last = max([len(values) - 1, *(metric.step for metric in known)])
    steps = range(last + 1 if values else 0)
    _log_values(client, run_id, ((name, values[min(step, len(values) - 1)], step) for step in steps))


def _log_curve(client: MlflowClient, run_id: str, curve: Sequence[ValidationPoint], name: str) -> None:
    """Add the points of a loss curve after the last step that the run holds."""
    known = client.get_metric_history(run_id, name) if curve else []
    last = max((metric.step for metric in known), default=-1)
    points = [point for point in curve if point.step > last]
    tokens = [("tuning/tokens_read", point.tokens, point.step) for point in points if name == LOSS]
    _log_values(client, run_id, [*((name, point.loss, point.step) for point in points), *tokens])


def _log_values(client: MlflowClient, run_id: str, values: Iterable[tuple[str, float, int]]) -> None:
    """Log metrics by name, value and step."""
    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, float(value), now, step) for name, value, step in values])
