"""Which run of MLflow is which, and how each begins, is found again and ends.

    pipeline / tiny / seed 7              what belongs together: models of one base, data set and way of tuning
        base / tiny / seed 7              a model's run: parameters, metrics, loss curves, files, traces
            base / evaluation             how it played: settings of the evaluation, episodes
        refinement / tiny / seed 7
            refinement / evaluation
        refinement / tiny / all seeds     where a variant is tuned with several seeds: the means of its models
            refinement / tiny / seed 8
        chance / seed 7                   a reference or an endpoint, which is not tuned here

A model's run lasts as long as its tuning and has what a person compares: its metrics are those of its last evaluation.

Stages are processes of their own and find a run again:
- the pipeline by the parameters that make models (`settings.pipeline_key`);
- a model by its name and the digest of its files. Newly tuned weights are a new run, and earlier ones of the same name
  get the tag `replaced_by`. A model that a later pipeline has in common with an earlier one moves to the later;
- an evaluation by its model and its settings, so that one that is repeated updates its run;
- a tuning that was interrupted by its key (`TuningJob.key`): it continues in its run, as it does at its checkpoint.

A run that works carries the tag `process`. One whose process is gone ends as KILLED when the next run begins. A run
that continues, or an evaluation that is repeated, lasts as long as it has worked in all.

Every function that is given where runs are kept raises `UserError` where this store cannot be reached or used.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run

from agentrefine.errors import UserError
from agentrefine.files import short_hash
from agentrefine.params import Params, TrackingParams
from agentrefine.params.seeds import without_seed
from agentrefine.params.tuning import BASE
from tasks.tracking import machine
from tasks.tracking.run_list import prepare_experiment
from tasks.tracking.settings import (
    base_label,
    evaluation_settings,
    model_label,
    pipeline_key,
    run_parameters,
    teacher_labels,
)
from tasks.tracking.store import quotable, store

EVALUATION = "evaluation"
"""The role of an evaluation's run."""

PIPELINE = "pipeline"
"""The role of a pipeline's run."""

VARIANT = "variant"
"""The role of the run of all seeds of a variant, and the tag with the variant's name."""

PROCESS, TUNING_KEY, REPLACED_BY, MODEL_DIGEST = "process", "tuning_key", "replaced_by", "model_digest"
"""Tags that runs are found by."""


class Evaluated(NamedTuple):
    """The runs of an evaluation: that of the model, and its own."""

    model: str
    evaluation: str


@contextmanager
def live_pipeline(params: Params) -> Iterator[str]:
    """The pipeline's run while all of its stages run in one process; yields its id."""
    with store(params.tracking) as client:
        experiment_id = _experiment(client, params)
        run_id = _pipeline(client, experiment_id, params)
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, PROCESS, machine.this_process())
    with _working(run_id, params.tracking, watched=False):
        yield run_id


def model_run(model: str, digest: str, params: Params) -> str:
    """The id of the run of a model, which its digest (`model_digest`) identifies; made when there is none."""
    with store(params.tracking) as client:
        experiment_id = _experiment(client, params)
        run_id = _find_model(client, experiment_id, model, digest)
        if run_id is None:
            run_id = _new_model_run(client, experiment_id, model, params, {MODEL_DIGEST: digest})
            client.set_terminated(run_id)
        _keep_current(client, experiment_id, run_id, params)
        return run_id


@contextmanager
def live_model(model: str, params: Params, key: str = "") -> Iterator[str]:
    """A run to watch while a model is being made; yields its id. If that fails, the run is marked as failed.

    The model's digest is not known yet: `adopt` gives the run its identity when it is. `key` identifies a tuning that
    can be interrupted: it continues in the run that it began. A store that cannot be reached any more when the work
    fails does not hide why it failed.
    """
    with store(params.tracking) as client:
        experiment_id = _experiment(client, params)
        run_id = _interrupted(client, experiment_id, model, key)
        if run_id is None:
            run_id = _new_model_run(client, experiment_id, model, params, {TUNING_KEY: key} if key else {})
        _begin(client, run_id, "tuning" if key else "base_model")
    with _working(run_id, params.tracking):
        yield run_id


def adopt(run_id: str, model: str, digest: str, params: Params) -> str:
    """Make a live run the run of the model that came out of it; returns the id of that model's run.

    When the same bytes came out as before, the earlier run stays, since the registry may refer to it, and the live one
    is deleted.
    """
    with store(params.tracking) as client:
        experiment_id = _experiment(client, params)
        earlier = _find_model(client, experiment_id, model, digest)
        if earlier is not None and earlier != run_id:
            client.delete_run(run_id)
            run_id = earlier
        else:
            client.set_tag(run_id, MODEL_DIGEST, digest)
            if TUNING_KEY in client.get_run(run_id).data.tags:  # it is found by the digest from now on
                client.delete_tag(run_id, TUNING_KEY)
        _keep_current(client, experiment_id, run_id, params)
        return run_id


@contextmanager
def live_evaluation(model: str, digest: str, params: Params) -> Iterator[Evaluated]:
    """The runs of a model and of its evaluation while it plays; one that is repeated updates its run.

    What is not tuned here, such as chance, has a run as long as its first evaluation.
    """
    settings = evaluation_settings(params)
    with store(params.tracking) as client, ExitStack() as working:
        experiment_id = _experiment(client, params)
        run_id = _find_model(client, experiment_id, model, digest)
        is_new = run_id is None
        if run_id is None:
            run_id = _new_model_run(client, experiment_id, model, params, {MODEL_DIGEST: digest})
        _keep_current(client, experiment_id, run_id, params)
        own = _evaluation(client, experiment_id, run_id, model, settings)
        _begin(client, own, "evaluation")
        if is_new:
            _begin(client, run_id, "evaluation")
            working.enter_context(_working(run_id, params.tracking, watched=False))
        working.enter_context(_working(own, params.tracking))
        live = working.pop_all()
    with live:
        yield Evaluated(run_id, own)


def current_evaluation(client: MlflowClient, model_run_id: str) -> Run | None:
    """The run of a model's last evaluation."""
    experiment_id = client.get_run(model_run_id).info.experiment_id
    found = client.search_runs(
        [experiment_id],
        f"tags.role = '{EVALUATION}' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{model_run_id}' "
        f"and tags.{REPLACED_BY} IS NULL",
        max_results=1,
    )
    return found[0] if found else None


def pipeline_of(client: MlflowClient, model_run_id: str) -> str:
    """The run of the pipeline that a model belongs to."""
    all_seeds = variant_of(client, model_run_id)
    return str(client.get_run(all_seeds or model_run_id).data.tags[MLFLOW_PARENT_RUN_ID])


def variant_of(client: MlflowClient, model_run_id: str) -> str | None:
    """The run of all seeds of the variant that a model belongs to; None where it was tuned with the run's own seed."""
    parent = str(client.get_run(model_run_id).data.tags[MLFLOW_PARENT_RUN_ID])
    return parent if client.get_run(parent).data.tags["role"] == VARIANT else None


def models_of(client: MlflowClient, variant_run_id: str) -> list[Run]:
    """The models of a variant, one a seed, without those that were replaced."""
    experiment_id = client.get_run(variant_run_id).info.experiment_id
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{variant_run_id}' and tags.{REPLACED_BY} IS NULL"
    return list(client.search_runs([experiment_id], wanted))


@contextmanager
def _working(run_id: str, tracking: TrackingParams, *, watched: bool = True) -> Iterator[None]:
    """Watch the machine while a run works, if so wished, and end the run as what happened says.

    A run that worked before lasts as long as it has worked in all: the pause is left out of its duration.
    """
    with store(tracking) as client:
        known = client.get_run(run_id).info
    began, before = now(), (known.end_time or known.start_time) - known.start_time

    def end(client: MlflowClient, status: str) -> None:
        _end(client, run_id, status, known.start_time + before + now() - began)

    try:
        with machine.watched(run_id, tracking.uri) if watched else nullcontext():
            yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | TerminationSignal)  # Ctrl-C, or SIGTERM in a flow
        with suppress(UserError), store(tracking) as client:
            end(client, "KILLED" if stopped else "FAILED")
        raise
    with store(tracking) as client:
        end(client, "FINISHED")


def _begin(client: MlflowClient, run_id: str, stage: str) -> None:
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, PROCESS, machine.this_process())
    if flow_run.id:
        client.set_tag(run_id, f"prefect_flow_run_id.{stage}", flow_run.id)


def _end(client: MlflowClient, run_id: str, status: str, end_time: int) -> None:
    run = client.get_run(run_id)
    if run.info.lifecycle_stage == "deleted":  # the same model had a run already
        return
    if PROCESS in run.data.tags:
        client.delete_tag(run_id, PROCESS)
    client.set_terminated(run_id, status, end_time)


def _end_killed(client: MlflowClient, experiment_id: str) -> None:
    """End the runs of this machine whose process is gone, at the time of the last metric or child that they have."""
    for run in client.search_runs([experiment_id], f"attributes.status = 'RUNNING' and tags.{PROCESS} LIKE '%'"):
        run_id = run.info.run_id
        if machine.is_gone(run.data.tags[PROCESS]):
            stamps = [client.get_metric_history(run_id, name)[-1].timestamp for name in run.data.metrics]
            children = client.search_runs([experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}'")
            ends = [child.info.end_time or child.info.start_time for child in children]
            _end(client, run_id, "KILLED", max([run.info.start_time, *stamps, *ends]))


def _experiment(client: MlflowClient, params: Params) -> str:
    experiment_id = prepare_experiment(client, params.tracking.experiment)
    _end_killed(client, experiment_id)
    return experiment_id


def _pipeline(client: MlflowClient, experiment_id: str, params: Params) -> str:
    """The pipeline's run; made when there is none."""
    key = pipeline_key(params)
    found = client.search_runs([experiment_id], f"tags.role = '{PIPELINE}' and tags.pipeline_key = '{key}'")
    if found:
        return str(found[0].info.run_id)
    name = f"pipeline / {base_label(params)} / seed {params.seed}"
    tags = {"role": PIPELINE, "pipeline_key": key, **machine.source("agentrefine run")}
    run_id = _create(client, experiment_id, name, tags)
    client.set_terminated(run_id)
    return run_id


def _parent(client: MlflowClient, experiment_id: str, model: str, params: Params) -> str:
    """The run above a model's: that of all seeds of its variant, made when there is none, or the pipeline's."""
    pipeline = _pipeline(client, experiment_id, params)
    variant = params.tuning.variants.get(model)
    if variant is None or variant.seed is None:
        return pipeline
    name = without_seed(model, variant)
    wanted = f"tags.role = '{VARIANT}' and tags.{VARIANT} = '{name}' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{pipeline}'"
    if found := client.search_runs([experiment_id], wanted):
        return str(found[0].info.run_id)
    tags = {"role": VARIANT, VARIANT: name, "train_on": variant.train_on, MLFLOW_PARENT_RUN_ID: pipeline}
    title = f"{name} / {base_label(params)} / all seeds"
    run_id = _create(client, experiment_id, title, {**tags, **machine.source("agentrefine run")})
    client.set_terminated(run_id)
    return run_id


def _find_model(client: MlflowClient, experiment_id: str, model: str, digest: str) -> str | None:
    wanted = f"tags.{MODEL_DIGEST} = '{quotable(digest)}' and tags.model = '{quotable(model)}'"
    runs = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"], max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _interrupted(client: MlflowClient, experiment_id: str, model: str, key: str) -> str | None:
    """The run of a tuning that failed or was killed, and that takes the same steps."""
    if not key:
        return None
    wanted = f"tags.{TUNING_KEY} = '{quotable(key)}' and tags.model = '{quotable(model)}'"
    runs = client.search_runs([experiment_id], wanted)
    return next((str(run.info.run_id) for run in runs if run.info.status in ("FAILED", "KILLED")), None)


def _new_model_run(
    client: MlflowClient, experiment_id: str, model: str, params: Params, tags: Mapping[str, str]
) -> str:
    """A running run with the parameters of its model, below that of its pipeline."""
    variant = params.tuning.variants.get(model)
    given = {
        "model": model,
        "role": _role(model, params),
        "base": base_label(params),
        "teacher": ", ".join(teacher_labels(params)),
        **({"train_on": variant.train_on, VARIANT: without_seed(model, variant)} if variant else {}),
        MLFLOW_PARENT_RUN_ID: _parent(client, experiment_id, model, params),
    }
    command = f"tune {model}" if variant else "stage base_model" if model == BASE else f"evaluate {model}"
    source = machine.source(f"agentrefine {command}")
    run_id = _create(client, experiment_id, model_label(params, model), {**given, **source, **tags})
    client.log_batch(run_id, params=[Param(*pair) for pair in run_parameters(params, model).items()])
    return run_id


def _role(model: str, params: Params) -> str:
    """What a model is in the comparison."""
    if model == params.baseline:
        return "baseline"
    if model == BASE:
        return "base"
    if model in params.tuning.variants:
        return "tuned"
    return "reference" if model in params.evaluation.references else "endpoint"


def _evaluation(
    client: MlflowClient, experiment_id: str, model_run_id: str, model: str, settings: Mapping[str, str]
) -> str:
    """The run of an evaluation by its settings, made when there is none; the model's others are replaced by it."""
    key = short_hash(*(f"{name}={value}" for name, value in settings.items()))
    parent = f"tags.role = '{EVALUATION}' and tags.`{MLFLOW_PARENT_RUN_ID}` = '{model_run_id}'"
    known = client.search_runs([experiment_id], parent)
    own = next((run.info.run_id for run in known if run.data.tags["settings"] == key), None)
    if own is None:
        tags = {
            "model": model, "role": EVALUATION, "settings": key, MLFLOW_PARENT_RUN_ID: model_run_id,
            **machine.source(f"agentrefine evaluate {model}"),
        }  # fmt: skip
        own = _create(client, experiment_id, f"{model} / evaluation", tags)
        client.log_batch(own, params=[Param(*pair) for pair in settings.items()])
    _replace(client, own, known)
    return str(own)


def _keep_current(client: MlflowClient, experiment_id: str, run_id: str, params: Params) -> None:
    """Let a model's run stand under the present pipeline, in its present role; mark others of its name as replaced."""
    run = client.get_run(run_id)
    role = _role(run.data.tags["model"], params)
    if run.data.tags["role"] != role:  # `report.baseline` was changed
        client.set_tag(run_id, "role", role)
    pipeline, earlier = _pipeline(client, experiment_id, params), run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    parent = _parent(client, experiment_id, run.data.tags["model"], params)
    if earlier != parent:
        client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent)
        left = client.search_runs([experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{earlier}'", max_results=1)
        if earlier and not left:
            client.set_tag(earlier, REPLACED_BY, pipeline)
    if REPLACED_BY in client.get_run(pipeline).data.tags:
        client.delete_tag(pipeline, REPLACED_BY)
    same_name = f"tags.`mlflow.runName` = '{quotable(run.info.run_name)}'"
    _replace(client, run_id, client.search_runs([experiment_id], f"{same_name} and tags.{MODEL_DIGEST} LIKE '%'"))


def _replace(client: MlflowClient, run_id: str, others: list[Run]) -> None:
    """Mark runs as replaced by this one."""
    for other in others:
        known = other.data.tags.get(REPLACED_BY)
        if other.info.run_id == run_id:
            if known:
                client.delete_tag(run_id, REPLACED_BY)
        elif known is None:
            client.set_tag(other.info.run_id, REPLACED_BY, run_id)


def _create(client: MlflowClient, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    run = client.create_run(experiment_id, start_time=now(), tags=dict(tags), run_name=name)
    return str(run.info.run_id)


def now() -> int:
    """Milliseconds, as MLflow counts time."""
    return int(time.time() * 1000)


def tag(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set some tags."""
    client.log_batch(run_id, tags=[RunTag(*pair) for pair in tags.items()])
