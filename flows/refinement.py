"""Refinement: rejected games go back to the teacher with the reason: python -m flows.refinement"""

from agentrefine.params import Params
from flows.command import run, stage_flow
from tasks.refinement import OUT, write_trajectories
from tasks.tracking.artifacts import show_cost


def refine_and_show_cost(params: Params) -> None:
    """Work on every sample until it is kept or dropped, and show what the data set has cost."""
    write_trajectories(params)
    show_cost(OUT.parent)


refinement = stage_flow("refinement", refine_and_show_cost)

if __name__ == "__main__":
    run(refinement, __doc__)
