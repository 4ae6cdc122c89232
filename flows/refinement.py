"""Refinement: rejected games go back to the teacher with the reason: python -m flows.refinement"""

from prefect import flow

from agentrefine.params import load_params
from flows.command import run
from tasks.refinement import write_trajectories


@flow(name="refinement", flow_run_name="refinement")
def refinement() -> None:
    """Write `data/refinement/` from `data/synthesis/` and `data/verification/`.

    Raises:
        UserError: a teacher that cannot be reached.
    """
    write_trajectories(load_params())


if __name__ == "__main__":
    run(refinement, __doc__)
