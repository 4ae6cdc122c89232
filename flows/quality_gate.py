"""Quality gate: Great Expectations decides whether the data set may be tuned on: python -m flows.quality_gate"""

from flows.command import run, stage_flow
from tasks.quality_gate import gate

quality_gate = stage_flow("quality_gate", gate)

if __name__ == "__main__":
    run(quality_gate, __doc__)
