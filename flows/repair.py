"""Repair: rejected games go back to the teacher with the reason: python -m flows.repair"""

from flows.command import run, stage_flow
from tasks.repair import write_trajectories

repair = stage_flow("repair", write_trajectories)

if __name__ == "__main__":
    run(repair, __doc__)
