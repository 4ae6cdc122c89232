"""Verification: rules judge every answer of the teacher: python -m flows.verification"""

from prefect import flow

from agentrefine.params import load_params
from flows.command import run
from tasks.verification import write_verdicts


@flow(name="verification", flow_run_name="verification")
def verification() -> None:
    """Write `data/verification/` from `data/synthesis/`."""
    write_verdicts(load_params())


if __name__ == "__main__":
    run(verification, __doc__)
