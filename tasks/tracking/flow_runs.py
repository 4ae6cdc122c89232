"""What the list of runs in the Prefect UI shows of one: its name and its tags."""

from collections.abc import Mapping, Sequence
from textwrap import shorten

from prefect import get_client
from prefect.context import FlowRunContext

from agentrefine.params import Params
from tasks.tracking.settings import teacher_labels

MAX_NAME = 100
"""Characters of a run's name; the list cuts longer ones."""


def describe_pipeline(params: Params, pending: Sequence[str], total: int, overrides: Mapping[str, object]) -> None:
    """Name the present run of the pipeline by its overrides, or by the stages that it will run; tag it."""
    _describe(pipeline_name(pending, total, overrides), _common_tags(params))


def describe_stage(params: Params, stage: str, **key: str) -> None:
    """Tag the present run of a stage: with the stage, its key (`variant="refinement"`), the base and the teacher."""
    _describe(None, [f"stage:{stage}", *(f"{name}:{value}" for name, value in key.items()), *_common_tags(params)])


def pipeline_name(pending: Sequence[str], total: int, overrides: Mapping[str, object]) -> str:
    """What is special about a run of the pipeline, of whose `total` stages those in `pending` are not up to date.

    Example: `"tuning.learning_rate=0.001"`, `"all 12 stages"` or `"tuning refinement, report"`.
    """
    if overrides:
        name = ", ".join(f"{key}={value}" for key, value in overrides.items())
    elif not pending:
        name = "nothing to run"
    elif len(pending) == total:
        name = f"all {total} stages"
    else:
        name = ", ".join(address.replace("@", " ") for address in pending)
    return shorten(name, MAX_NAME, placeholder=" ...")


def _common_tags(params: Params) -> list[str]:
    return [f"base:{params.base_model.path}", *(f"teacher:{name}" for name in teacher_labels(params))]


def _describe(name: str | None, tags: Sequence[str]) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = context.flow_run
    with get_client(sync_client=True) as client:
        client.update_flow_run(run.id, name=name, tags=sorted({*run.tags, *tags}))
