"""End the runs of the deployment whose process is gone, before a worker starts: python -m flows.dead_runs

A run that is killed cannot report its end. Its worker does so, and where that was killed too, Prefect's server frees
the run's place of `concurrency_limit` five minutes later. But the server knows only in memory who holds a place: of a
run that was killed with it, the next one would wait for ever.
"""

from contextlib import suppress
from uuid import UUID

import psutil
from prefect import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from flows.command import exit_with_sentence, parse

HOLDING = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
"""The states in which a run holds a place."""


def end_dead_runs() -> list[UUID]:
    """Report the end of each run of `agentrefine/local` that has begun and has no process on this machine."""
    with get_client(sync_client=True) as client:
        begun = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["agentrefine"])),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["local"])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=HOLDING))),
        )
        dead = [run.id for run in begun if not _has_process(run)]
        for run_id in dead:
            client.set_flow_run_state(run_id, Crashed(message="It was killed, and so could not report its end."))
    return dead


def _has_process(run: FlowRun) -> bool:
    """Whether the process that a worker has started for a run is there."""
    number = (run.infrastructure_pid or "").rpartition(":")[2]
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return number.isdigit() and psutil.Process(int(number)).environ().get("PREFECT__FLOW_RUN_ID") == str(run.id)
    return False


if __name__ == "__main__":
    parse(__doc__)
    exit_with_sentence(lambda: print(f"{len(end_dead_runs())} runs were killed and are ended."))
