"""The whole pipeline in one process: python -m flows.pipeline

Runs the stages of dvc.yaml in their order as subflows, skips those that DVC says are up to date, and records each
finished one with DVC. `dvc repro`, this command and the deployment `agentrefine/local` therefore leave the same files
and the same dvc.lock, and each takes up where another stopped.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from prefect import flow
from prefect.logging import get_run_logger

from agentrefine.benchmarks.catalogue import selected
from agentrefine.params import Params, load_params
from flows.base_model import base_model
from flows.command import exit_with_sentence
from flows.evaluation import evaluation
from flows.mix import mix
from flows.quality_gate import quality_gate
from flows.refinement import refinement
from flows.report import print_report, report
from flows.server import prefect_server
from flows.synthesis import synthesis
from flows.tuning import launch, tuning
from flows.verification import verification
from flows.workspace import Workspace, exclusive_use, overridden_params
from tasks.checks import check_before
from tasks.progress import progress
from tasks.simulators import record_simulators


class Stage(NamedTuple):
    """A stage of dvc.yaml.

    Attributes:
        address: its name there, such as `tuning@refinement`.
        run: runs its flow.
    """

    address: str
    run: Callable[[], object]


def stages(params: Params) -> Iterator[Stage]:
    """All stages in the order of their dependencies."""
    yield Stage("synthesis", synthesis)
    yield Stage("verification", verification)
    yield Stage("refinement", refinement)
    yield Stage("base_model", base_model)
    yield Stage("quality_gate", quality_gate)
    for name in params.mix:
        yield Stage(f"mix@{name}", partial(mix, name))
    for variant in params.tuning.variants:
        launcher = params.tuning.launcher
        run = partial(tuning, variant) if launcher == "python" else partial(launch, variant, launcher)
        yield Stage(f"tuning@{variant}", run)
    for model in params.evaluation.models:
        yield Stage(f"evaluation@{model}", partial(evaluation, model))
    for endpoint in params.evaluation.endpoints:
        yield Stage(f"endpoint_evaluation@{endpoint}", partial(evaluation, endpoint))
    yield Stage("report", report)


@flow(name="agentrefine", flow_run_name="pipeline")
def agentrefine(overrides: dict[str, Any] | None = None) -> None:
    """Run every stage that is not up to date.

    Args:
        overrides: dotted keys of params.yaml with the values that hold for this run, such as
            `{"tuning.learning_rate": 0.001}`.

    Raises:
        UserError: bad parameters or input, or a gate that does not pass; one sentence.
    """
    logger = get_run_logger()
    with exclusive_use(), overridden_params(overrides or {}):
        params = load_params()
        record_simulators(params.evaluation.data)
        workspace = Workspace()
        selected(params.evaluation)  # refuses what cannot be played before anything is paid for
        todo = list(stages(params))
        with progress("pipeline", len(todo), "stage", bar=False) as bar:
            for done, stage in enumerate(todo):
                if workspace.up_to_date(stage.address):
                    logger.info("%s: up to date", stage.address)
                else:
                    logger.info("%s: running (%d of %d)", stage.address, done + 1, len(todo))
                    workspace.run(stage.address, stage.run)
                bar.advance()
                bar.publish()


def main() -> None:
    """Run what is out of date; where nothing is, say so without starting anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with exclusive_use():
        params = load_params()
        record_simulators(params.evaluation.data)
        workspace = Workspace()
        todo = [stage.address for stage in stages(params) if not workspace.up_to_date(stage.address)]
    if todo:
        check_before(params, todo)
        with prefect_server():
            agentrefine()
    else:
        print("Every stage is up to date; nothing to run.")
    print_report(load_params())


if __name__ == "__main__":
    exit_with_sentence(main)
