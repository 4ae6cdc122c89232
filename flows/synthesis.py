"""Synthesis: the teacher writes a script and plays a first game for every persona: python -m flows.synthesis"""

from agentrefine.params import Params
from flows.command import run, stage_flow
from tasks.forecast import print_forecast, run_and_judge_pilot
from tasks.synthesis import OUT, write_attempts
from tasks.tracking.artifacts import show_cost


def forecast_and_write(params: Params) -> None:
    """Finish a pilot, where one is asked for, which may end the run; then write `data/synthesis/` from the personas."""
    write_attempts(params, spent=run_and_judge_pilot(params))
    show_cost(OUT.parent)


synthesis = stage_flow("synthesis", forecast_and_write)
forecast = stage_flow("forecast", print_forecast)

if __name__ == "__main__":
    run(synthesis, __doc__)
