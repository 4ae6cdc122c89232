"""What MLflow keeps: one run per model, and the registered model whose alias moves by comparison only.

Tuning, evaluation and report are processes of their own. They find the same run again by the digest of the model's
files, so a repeated evaluation updates its run and a newly tuned model opens a new one.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# MLflow reads these when it is imported; what the user has set stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default, 7, leaves a wrong address silent for long
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from prefect.runtime import flow_run
from sqlalchemy.exc import SQLAlchemyError

from agentrefine.agent.episode import Episode
from agentrefine.errors import UserError
from agentrefine.files import read_jsonl, sha256_file
from agentrefine.metrics import Comparison, compare
from agentrefine.params import Params, TrackingParams
from agentrefine.report_inputs import CurvePoint
from tasks.provenance import dvc_md5, flatten, git_commit, without_credentials

MODEL_SECTIONS = ("seed", "personas", "teacher", "synthesis", "verification", "refinement", "quality_gate")
TUNED_SECTIONS = (*MODEL_SECTIONS, "base_model", "tuning")
BASE_SECTIONS = ("seed", "base_model")
"""Sections of params.yaml that decide what a model's files hold; only these are a run's parameters."""

EVALUATION, EPISODES = "evaluation", "episodes.jsonl"
MODEL = "model"
CHAMPION, CHALLENGER = "champion", "challenger"


class Registration(NamedTuple):
    """Where a model stands in the registry.

    Attributes:
        version: its version of the registered model.
        alias: `champion` or `challenger`.
        against: what it was compared with, such as `base` or `version 3`; empty when it is the champion already.
        comparison: the paired comparison with it; None where there is none, or no episode that both have played.
    """

    version: str
    alias: str
    against: str
    comparison: Comparison | None


def run_for(model: str, digest: str, tracking: TrackingParams) -> str:
    """The id of the run that holds a model; made when there is none.

    Args:
        model: `base`, a variant, or an endpoint's name.
        digest: what identifies its files (`agentrefine.tuning.models.model_digest`).
        tracking: where runs are kept.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(tracking) as client:
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

    The model's digest is not known yet: `adopt` gives the run its identity when it is.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(tracking) as client:
        run_id = _new_run(client, _experiment(client, tracking), model, {"model": model})
        _tag_flow_run(client, run_id, "tuning")
    try:
        yield run_id
    except BaseException:
        with _client(tracking) as client:
            client.set_terminated(run_id, "FAILED")
        raise


def adopt(run_id: str, model: str, digest: str, tracking: TrackingParams) -> str:
    """Make a live run the run of the model that came out of it; returns the id of that model's run.

    When tuning gave the same bytes as before, the earlier run stays, since the registry may refer to it, and the live
    one is deleted.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(tracking) as client:
        earlier = _find(client, _experiment(client, tracking), model, digest)
        if earlier is not None and earlier != run_id:
            client.delete_run(run_id)
            return earlier
        client.set_tag(run_id, "model_digest", digest)
        client.update_run(run_id, name=f"{model}-{digest[:6]}")
        client.set_terminated(run_id)
        return run_id


def log_points(run_id: str, tracking: TrackingParams, points: Sequence[CurvePoint]) -> None:
    """Add points to a run's loss curve; those at or before its last step are there already and are left out.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(tracking) as client:
        _log_curve(client, run_id, points)


def log_tuning(
    run_id: str,
    params: Params,
    *,
    data_set: Path,
    curve: Sequence[CurvePoint],
    metrics: Mapping[str, float],
    folder: Path,
) -> None:
    """Log what made a tuned model: parameters, data set, loss curve, final figures, and the model's files.

    Args:
        run_id: from `run_for`.
        params: those that the model was tuned with.
        data_set: the file of training samples.
        curve: the loss curve; what was logged live is not logged again.
        metrics: final figures of tuning; logged as `tuning/<name>`.
        folder: the adapter or model, kept as the run's artifact `model`.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(params.tracking) as client:
        _log_params(client, run_id, flatten(params, TUNED_SECTIONS))
        client.log_inputs(run_id, [data_set_input(data_set)])
        _log_curve(client, run_id, curve)
        _log_metrics(client, run_id, {f"tuning/{name}": value for name, value in metrics.items()})
        client.log_artifacts(run_id, str(folder), MODEL)
        _tag_flow_run(client, run_id, "tuning")


def log_base(run_id: str, params: Params, folder: Path | None = None) -> None:
    """Log what made the base model: parameters and, where it was made here, its files.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(params.tracking) as client:
        _log_params(client, run_id, flatten(params, BASE_SECTIONS))
        if folder is not None:
            client.log_artifacts(run_id, str(folder), MODEL)


def log_evaluation(run_id: str, params: Params, *, metrics: Mapping[str, float], episodes: Path, sample: str) -> None:
    """Log what a model reached: rates with their intervals, all episodes, and some to read.

    The settings of the evaluation are tags, because the same model may be evaluated again with others.

    Args:
        run_id: from `run_for`.
        params: those of the evaluation.
        metrics: such as `worlds_layouts/success_rate`, `worlds_layouts/success_rate_low`.
        episodes: all episodes of the model, `reports/evaluation/<model>/episodes.jsonl`; registration reads them back.
        sample: some episodes as Markdown.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(params.tracking) as client:
        _log_metrics(client, run_id, metrics)
        for key, value in flatten(params, ("evaluation",)).items():
            client.set_tag(run_id, key, value)
        client.log_artifact(run_id, str(episodes), EVALUATION)
        client.log_text(run_id, sample, f"{EVALUATION}/sample.md")
        _tag_flow_run(client, run_id, "evaluation")


def holds(run_id: str, folder: str, tracking: TrackingParams) -> bool:
    """Whether a run has artifacts in `folder` (`MODEL` or `EVALUATION`).

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(tracking) as client:
        return bool(client.list_artifacts(run_id, folder))


def log_plots(run_id: str, tracking: TrackingParams, plots: Sequence[Path]) -> None:
    """Keep figures as the run's artifacts under `plots/`.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with _client(tracking) as client:
        for plot in plots:
            client.log_artifact(run_id, str(plot), "plots")


def register(
    model: str, digest: str, run_id: str, params: Params, *, episodes: Path, base_episodes: Path
) -> Registration:
    """Enter a tuned model in the registry and decide its alias.

    `champion` moves to the model only when the paired comparison on `report.champion_benchmark` says that it is better
    than the present champion beyond the interval of the difference; otherwise it is `challenger`. While there is no
    champion, it is compared with the base. A digest is entered once, however often this is called.

    Raises:
        UserError: the tracking store cannot be reached or used, or episodes are missing.
    """
    name = params.tracking.registered_model
    benchmark = params.report.champion_benchmark
    with _client(params.tracking) as client:
        version = _version(client, name, model, digest, run_id)
        champion = _champion(client, name)
        if champion is not None and str(champion.version) == str(version.version):
            return Registration(str(version.version), CHAMPION, "", None)
        if champion is None:
            against, rival = "base", _of_benchmark(base_episodes, benchmark)
        else:
            against = f"version {champion.version}"
            rival = _stored_episodes(client, champion, benchmark) if _same_rules(client, champion, params) else []
        comparison = _compare_common(_of_benchmark(episodes, benchmark), rival)
        better = comparison is not None and comparison.verdict == "better"
        alias = CHAMPION if better else CHALLENGER
        _move_alias(client, name, version, alias)
        client.set_model_version_tag(name, version.version, "compared_with", against)
        client.set_model_version_tag(name, version.version, "verdict", _verdict(comparison))
        return Registration(str(version.version), alias, against, comparison)


def download_model(tracking: TrackingParams, target: Path, alias: str = CHAMPION) -> Path:
    """Fetch the files of the registered model under an alias into `target`, byte for byte; returns their folder.

    Raises:
        UserError: the tracking store cannot be reached or used, or no version has the alias.
    """
    target.mkdir(parents=True, exist_ok=True)
    with _client(tracking) as client:
        version = client.get_model_version_by_alias(tracking.registered_model, alias)
        return Path(client.download_artifacts(version.run_id, MODEL, str(target)))


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
def _client(tracking: TrackingParams) -> Iterator[MlflowClient]:
    try:
        yield MlflowClient(tracking.uri)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        address = without_credentials(tracking.uri)
        reason = str(error).partition("\n")[0].replace(tracking.uri, address)[:200]
        raise UserError(
            f"tracking.uri {address}: MLflow cannot use it ({reason}); start its server or correct params.yaml."
        ) from error


def _experiment(client: MlflowClient, tracking: TrackingParams) -> str:
    found = client.get_experiment_by_name(tracking.experiment)
    return str(found.experiment_id if found else client.create_experiment(tracking.experiment))


def _find(client: MlflowClient, experiment_id: str, model: str, digest: str) -> str | None:
    wanted = f"tags.model_digest = '{_quotable(digest)}' and tags.model = '{_quotable(model)}'"
    runs = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"], max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _new_run(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    commit = {"mlflow.source.git.commit": git_commit()}
    return str(client.create_run(experiment_id, tags={**tags, **commit}, run_name=name).info.run_id)


def _quotable(text: str) -> str:
    return text.replace("'", "")


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


def _log_curve(client: MlflowClient, run_id: str, curve: Sequence[CurvePoint]) -> None:
    known = client.get_metric_history(run_id, "tuning/loss") if curve else []
    last = max((metric.step for metric in known), default=-1)
    now = int(time.time() * 1000)
    rows = [
        metric
        for point in curve
        if point.step > last
        for metric in (
            Metric("tuning/loss", point.loss, now, point.step),
            Metric("tuning/tokens_read", float(point.tokens), now, point.step),
        )
    ]
    for start in range(0, len(rows), 1000):
        client.log_batch(run_id, metrics=rows[start : start + 1000])


def _version(client: MlflowClient, name: str, model: str, digest: str, run_id: str) -> ModelVersion:
    if not client.search_registered_models(f"name = '{_quotable(name)}'"):
        client.create_registered_model(name, description="Agents by refinement tuning; `champion` moves by comparison.")
    for version in client.search_model_versions(f"name = '{_quotable(name)}'"):
        if version.tags.get("model_digest") == digest:
            return version
    tags = {"model": model, "model_digest": digest}
    return client.create_model_version(name, source=f"runs:/{run_id}/{MODEL}", run_id=run_id, tags=tags)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    aliases = client.get_registered_model(name).aliases
    return client.get_model_version(name, aliases[CHAMPION]) if CHAMPION in aliases else None


def _move_alias(client: MlflowClient, name: str, version: ModelVersion, alias: str) -> None:
    client.set_registered_model_alias(name, alias, version.version)
    challenger = client.get_registered_model(name).aliases.get(CHALLENGER)
    if alias == CHAMPION and str(challenger) == str(version.version):
        client.delete_registered_model_alias(name, CHALLENGER)


def _stored_episodes(client: MlflowClient, version: ModelVersion, benchmark: str) -> list[Episode]:
    with tempfile.TemporaryDirectory() as folder:
        fetched = client.download_artifacts(version.run_id, f"{EVALUATION}/{EPISODES}", folder)
        return _of_benchmark(Path(fetched), benchmark)


def _same_rules(client: MlflowClient, version: ModelVersion, params: Params) -> bool:
    """Whether a version was evaluated with the step and token limits of today."""
    tags = client.get_run(version.run_id).data.tags
    limits = flatten(params, ("evaluation",))
    return all(tags.get(name) == limits[name] for name in ("evaluation.max_steps", "evaluation.max_new_tokens"))


def _of_benchmark(episodes: Path, benchmark: str) -> list[Episode]:
    return [episode for episode in read_jsonl(episodes, Episode) if episode.benchmark == benchmark]


def _compare_common(new: list[Episode], rival: list[Episode]) -> Comparison | None:
    """The comparison on what both have played: a champion may have been evaluated on fewer episodes, or on others."""
    common = {episode.id for episode in new} & {episode.id for episode in rival}
    if not common:
        return None
    return compare([e for e in new if e.id in common], [e for e in rival if e.id in common])


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return "they have played no episode in common under the same limits"
    difference = comparison.success_difference
    return f"{comparison.verdict} ({difference.value} [{difference.low}, {difference.high}], n={difference.n})"
