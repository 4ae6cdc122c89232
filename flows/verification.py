"""Verification: rules judge every answer of the teacher: python -m flows.verification"""

from flows.command import run, stage_flow
from tasks.verification import write_verdicts

verification = stage_flow("verification", write_verdicts)

if __name__ == "__main__":
    run(verification, __doc__)
