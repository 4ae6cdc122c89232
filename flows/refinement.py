"""Refinement: rejected games go back to the teacher with the reason: python -m flows.refinement"""

from flows.command import run, stage_flow
from tasks.refinement import write_trajectories

refinement = stage_flow("refinement", write_trajectories)

if __name__ == "__main__":
    run(refinement, __doc__)
