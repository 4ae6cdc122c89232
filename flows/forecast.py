"""What the data set will cost, forecast from a pilot of teacher.pilot_personas personas: python -m flows.forecast

The pilot's calls are paid for and kept: the run itself does not make them again.
"""

from pathlib import Path

from prefect import flow

from agentrefine.errors import UserError
from agentrefine.game.personas import load_personas
from agentrefine.params import load_params
from flows.command import run
from tasks.forecast import run_pilot


@flow(name="forecast", flow_run_name="forecast")
def forecast() -> None:
    """Print the forecast.

    Raises:
        UserError: a bad personas file, too few personas, or a teacher that cannot be reached.
    """
    params = load_params()
    personas = sum(1 for _ in load_personas(Path(params.personas.path), params.personas.limit))
    pilot = params.teacher.pilot_personas
    if not 0 < pilot <= personas:
        raise UserError(
            "bad_value",
            f"teacher.pilot_personas is {pilot}, and there are {personas} personas; set it to a few of them, such as "
            "8.",
            key="teacher.pilot_personas",
            value=pilot,
            personas=personas,
        )
    print(run_pilot(params, personas)[0].sentence())


if __name__ == "__main__":
    run(forecast, __doc__)
