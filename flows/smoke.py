"""A first look in two minutes: every stage of the default run on a few personas: `agentrefine smoke`.

Works in runs/smoke (flows/folders.py) with the parameters of presets/smoke.yaml, whatever params.yaml says: with the
simulated teacher and the tiny base, so that it needs no key and no download.
"""

from collections.abc import Sequence
from pathlib import Path

from flows.folders import run_in
from flows.workspace import PRESETS

FOLDER = Path("runs/smoke")
SOURCE = PRESETS / "smoke.yaml"

NAME = "agentrefine-smoke"
"""Of this run's experiment and registered model in MLflow."""


def run_smoke(overrides: Sequence[str]) -> None:
    """Prepare the folder and run the pipeline there in this process's place.

    Raises:
        UserError: another run works in the folder, or it cannot be prepared.
    """
    print(f"Every stage with few of everything, in {FOLDER}: at most 2 minutes on two free cores.")
    print("The models learn too little to solve anything: this shows what runs, and `make run` what comes out.")
    run_in(FOLDER, SOURCE, [], NAME, overrides)
