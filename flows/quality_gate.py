"""Quality gate: Great Expectations decides whether the data set may be tuned on: python -m flows.quality_gate"""

from prefect import flow

from agentrefine.params import load_params
from flows.command import run
from tasks.quality_gate import gate


@flow(name="quality_gate", flow_run_name="quality_gate")
def quality_gate() -> None:
    """Write `data/dataset/` from `data/refinement/` if the gate passes, `reports/quality_gate/` in any case.

    Raises:
        UserError: the gate does not pass; a table of what failed, with example row ids.
    """
    gate(load_params())


if __name__ == "__main__":
    run(quality_gate, __doc__)
