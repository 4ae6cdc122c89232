"""Forecast: what the data set will cost, from a pilot of teacher.pilot_personas personas: python -m flows.forecast"""

from flows.command import run, stage_flow
from tasks.forecast import print_forecast

forecast = stage_flow("forecast", print_forecast)

if __name__ == "__main__":
    run(forecast, __doc__)
