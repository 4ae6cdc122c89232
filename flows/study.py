"""Does refinement help? Several variants and seeds, side by side: `agentrefine study`.

The pipeline runs in `runs/study/<name>` (flows/folders.py) with the preset `study`, for one seed more each time. What
every model reached is kept in `reports/study/<name>/results/<model>/`, and the page is made from all that lie there: so
a seed that another machine computed is added by copying its folders, and what is done is not run again.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from agentrefine.errors import UserError
from agentrefine.params import load_params
from agentrefine.report.inputs import Project
from agentrefine.study.page import write_study
from agentrefine.study.results import keep_results
from flows.folders import check_free, prepare, tracking
from tasks.params import PARAMS

PRESET = "study"
FOLDERS, REPORTS = Path("runs/study"), Path("reports/study")
RESULTS = "results"
"""The folder of the results in that of the report."""


def run_study(name: str, seeds: Sequence[int], presets: Sequence[str], overrides: Sequence[str]) -> None:
    """Run the study, seed by seed, and write the page after each.

    Args:
        name: of the study; studies of one name add up.
        seeds: of the tunings. Without any, the page is written from the results that are there.
        presets: applied before the study's own, such as a real model's.
        overrides: as `dvc exp run -S` takes them.

    Raises:
        UserError: bad parameters, another run in the folder, a stage that fails, results that cannot be compared.
    """
    folder, out = FOLDERS / name, REPORTS / name
    for number in range(1, len(seeds) + 1):
        check_free(folder)
        chosen = [*tracking(folder, f"agentrefine-study-{name}"), *overrides]
        prepare(folder, PARAMS, [*presets, PRESET], chosen, seeds[:number])
        print(f"Seed {seeds[number - 1]} of {', '.join(map(str, seeds))}, in {folder}.", flush=True)
        done = subprocess.run([sys.executable, "-m", "flows.pipeline"], cwd=folder, check=False)
        if done.returncode:
            sentence = f"study {name}: the pipeline in {folder} failed; see above. The same command resumes it."
            raise UserError("stage_failed", sentence, stage="pipeline", status=done.returncode)
        _keep(folder, out / RESULTS)
        write_study(out / RESULTS, out, load_params(folder / PARAMS).report.champion_benchmark)
    first = load_params(PARAMS).report.champion_benchmark
    print(write_study(out / RESULTS, out, first))
    print(f"{out / 'study.md'} is this page; {out / RESULTS} holds what other machines can add to.")


def _keep(folder: Path, results: Path) -> None:
    from agentrefine.tuning.hardware import processor  # imports torch

    keep_results(load_params(folder / PARAMS), Project(folder), results, processor().description)
