"""Synthesis: the teacher writes a script and plays a first game for every persona: python -m flows.synthesis"""

from prefect import flow

from agentrefine.params import load_params
from flows.command import run
from tasks.synthesis import write_attempts


@flow(name="synthesis", flow_run_name="synthesis")
def synthesis() -> None:
    """Write `data/synthesis/` from the personas.

    Raises:
        UserError: a bad personas file, or a teacher that cannot be reached.
    """
    write_attempts(load_params())


if __name__ == "__main__":
    run(synthesis, __doc__)
