"""The whole pipeline in one process: python -m flows.pipeline

Runs the stages of dvc.yaml in their order as subflows, skips those that DVC says are up to date, and records each
finished one with DVC. `dvc repro`, this command and the deployment `agentrefine/local` therefore leave the same files
and the same dvc.lock, and each takes up where another stopped.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run

from agentrefine.errors import UserError
from agentrefine.params import Params, load_params
from flows.base_model import base_model
from flows.command import exit_with_sentence, parse
from flows.evaluation import evaluation
from flows.mix import mix
from flows.on_policy import on_policy
from flows.quality_gate import quality_gate
from flows.repair import repair
from flows.report import print_report, report
from flows.server import prefect_server
from flows.side_by_side import end_with_parent
from flows.synthesis import synthesis
from flows.tuning import launch, tuning
from flows.verification import verification
from flows.workspace import Workspace, exclusive_use, overridden_params
from tasks.checks import check_before
from tasks.mix import MIXES
from tasks.on_policy import OUT as ON_POLICY
from tasks.params import write_resolved
from tasks.playing import record_simulators
from tasks.tracking.flow_runs import describe_pipeline, pipeline_name
from tasks.tracking.progress import progress
from tasks.tracking.runs import live_pipeline


class Stage(NamedTuple):
    """A stage of dvc.yaml.

    Attributes:
        address: its name there, such as `tuning@refinement`.
        run: runs its flow.
        command: does the same in a process of its own, beside the other variants; None where it cannot.
    """

    address: str
    run: Callable[[], object]
    command: list[str] | None = None


def stages(params: Params) -> Iterator[Stage]:
    """All stages after `params` in the order of their dependencies."""
    yield Stage("synthesis", synthesis)
    yield Stage("verification", verification)
    yield Stage("repair", repair)
    yield Stage("base_model", base_model)
    yield Stage("quality_gate", quality_gate)
    yield from _data_sets_and_models(params)
    for reference in params.evaluation.references:
        yield Stage(f"reference_evaluation@{reference}", partial(evaluation, reference))
    for model in params.evaluation.models:
        yield Stage(f"evaluation@{model}", partial(evaluation, model))
    for endpoint in params.evaluation.endpoints:
        yield Stage(f"endpoint_evaluation@{endpoint}", partial(evaluation, endpoint))
    yield Stage("report", report)


def _data_sets_and_models(params: Params) -> Iterator[Stage]:
    """The stages mix, on_policy and tuning: each after those that write what it reads.

    Raises:
        UserError: stages that wait for each other.
    """
    made = {
        **{str(MIXES / name): f"mix@{name}" for name in params.mix},
        **{str(ON_POLICY / name): f"on_policy@{name}" for name in params.on_policy},
    }
    read = {
        **{f"mix@{name}": made.get(chosen.data_set) for name, chosen in params.mix.items()},
        **{f"tuning@{name}": made.get(variant.data_set) for name, variant in params.tuning.variants.items()},
        **{f"on_policy@{name}": f"tuning@{chosen.model}" for name, chosen in params.on_policy.items()},
    }
    waiting = [*read]
    while waiting:
        ready = [address for address in waiting if read[address] not in waiting]
        if not ready:
            message = (
                f"params.yaml: {' and '.join(waiting)} wait for each other; let one of them read another data set."
            )
            raise UserError("stages_wait_for_each_other", message, stages=waiting)
        yield from (_stage(address, params) for address in ready)
        waiting = [address for address in waiting if address not in ready]


def _stage(address: str, params: Params) -> Stage:
    kind, _, name = address.partition("@")
    if kind == "tuning":
        launcher = params.tuning.launcher
        if launcher != "python":
            return Stage(address, partial(launch, name, launcher))
        return Stage(address, partial(tuning, name), [sys.executable, "-m", "flows.tuning", name])
    return Stage(address, partial(mix if kind == "mix" else on_policy, name))


def _first_name() -> str:
    """The name of a run that has just begun; without overrides, `describe_pipeline` gives it a better one."""
    overrides = flow_run.parameters.get("overrides")
    return pipeline_name([], 0, overrides) if overrides else "pipeline"


@flow(name="agentrefine", flow_run_name=_first_name)
def agentrefine(overrides: dict[str, Any] | None = None) -> None:
    """Run every stage that is not up to date.

    Args:
        overrides: dotted keys of params.yaml with the values that hold for this run, such as
            `{"tuning.learning_rate": 0.001}`.

    Raises:
        UserError: bad parameters or input, or a gate that does not pass; one sentence.
    """
    end_with_parent()
    logger = get_run_logger()
    with exclusive_use(), overridden_params(overrides or {}):
        params, workspace = _prepared()
        todo = list(stages(params))
        pending = [stage.address for stage in todo if not workspace.up_to_date(stage.address)]
        describe_pipeline(params, pending, len(todo), overrides or {})
        check_before(params, pending)
        if deployment.id is not None and pending:  # the command has printed it before it started Prefect's server
            from flows.estimate import estimate  # imports torch

            for line in estimate(params, pending):
                logger.info(line)
        kept = live_pipeline(params) if pending else nullcontext()
        with kept, progress("pipeline", len(todo), "stage", bar=False) as bar:
            for group in independent(todo):
                due = [stage for stage in group if not workspace.up_to_date(stage.address)]
                for stage in group:
                    if stage not in due:
                        logger.info("%s: up to date", stage.address)
                run_stages(due, workspace, params)
                bar.advance(len(group))


def independent(todo: Sequence[Stage]) -> Iterator[list[Stage]]:
    """The stages in their order: tunings that follow each other together, since none reads another; others alone."""
    for together, group in groupby(todo, key=lambda stage: stage.command is not None):
        found = list(group)
        yield from [found] if together else ([stage] for stage in found)


def run_stages(pending: Sequence[Stage], workspace: Workspace, params: Params) -> None:
    """Run stages that do not depend on each other: side by side if each has a command and there are cores for several.

    Raises:
        UserError: a stage failed, or cannot be recorded.
    """
    from agentrefine.tuning.hardware import tunings_at_once  # imports torch

    logger = get_run_logger()
    commands = {stage.address: stage.command for stage in pending if stage.command is not None}
    at_once = tunings_at_once(params.tuning) if len(commands) == len(pending) > 1 else 1
    if at_once > 1:
        logger.info("%s: running, %d side by side", ", ".join(commands), min(at_once, len(commands)))
        workspace.run_side_by_side(commands, at_once)
    else:
        for stage in pending:
            logger.info("%s: running", stage.address)
            workspace.run(stage.address, stage.run)


def _prepared() -> tuple[Params, Workspace]:
    """The parameters, resolved and recorded by DVC, and the folder with what the benchmarks are played by."""
    params = load_params()
    record_simulators(params)
    workspace = Workspace(write_resolved)
    if not workspace.up_to_date("params"):
        workspace.run("params", write_resolved)
    return params, workspace


def run_pipeline() -> None:
    """Run what is out of date; where nothing is, say so without starting anything.

    Raises:
        UserError: as the flow.
    """
    with exclusive_use():
        params, workspace = _prepared()
        todo = [stage.address for stage in stages(params) if not workspace.up_to_date(stage.address)]
    if todo:
        from flows.estimate import estimate  # imports torch

        check_before(params, todo)
        print("\n".join(estimate(params, todo)), flush=True)
        with prefect_server() as connect:
            connect()
            agentrefine()
    else:
        print("Every stage is up to date; nothing to run.")
    print_report(load_params())


if __name__ == "__main__":
    parse(__doc__)
    exit_with_sentence(run_pipeline)
