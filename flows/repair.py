"""Repair: rejected games go back to the teacher with the reason: python -m flows.repair"""

from agentrefine.params import Params
from flows.command import run, stage_flow
from tasks.repair import OUT, write_trajectories
from tasks.tracking.artifacts import show_cost


def repair_and_show_cost(params: Params) -> None:
    """Work on every sample until it is kept or dropped, and show what the data set has cost."""
    write_trajectories(params)
    show_cost(OUT.parent)


repair = stage_flow("repair", repair_and_show_cost)

if __name__ == "__main__":
    run(repair, __doc__)
