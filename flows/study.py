"""Does refinement help? Several variants and seeds, side by side: `agentrefine study`.

The pipeline runs in `runs/study/<name>` (flows/folders.py) with the preset `study`, for one seed more each time. What
every model reached is kept in `reports/study/<name>/results/<model>/`, and the page is made from all that lie there: so
a seed that another machine computed is added by copying its folders, and what is done is not run again.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from agentrefine.errors import UserError
from agentrefine.params import load_params
from agentrefine.report.inputs import Project
from agentrefine.study.page import write_study
from agentrefine.study.results import check_joins, keep_results
from flows.folders import check_free, prepare, tracking
from flows.side_by_side import run_to_its_end
from tasks.params import PARAMS

PRESET = "study"
FOLDERS, REPORTS = Path("runs/study"), Path("reports/study")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
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
    if not NAME.fullmatch(name):
        message = f"study {name!r}: a study's name is one folder's; use letters, digits, points, - and _."
        raise UserError("bad_value", message, name=name)
    folder, results = FOLDERS / name, REPORTS / name / RESULTS
    settings = [*tracking(folder, f"agentrefine-study-{name}"), *overrides]
    if seeds:
        check_free(folder)
        prepare(folder, PARAMS, [*presets, PRESET], settings, seeds)  # all of them first: what is wrong shows now
        check_joins(load_params(folder / PARAMS), results)
    for number, seed in enumerate(seeds, start=1):
        check_free(folder)
        prepare(folder, PARAMS, [*presets, PRESET], settings, seeds[:number])
        print(f"Seed {seed} of {', '.join(map(str, seeds))}, in {folder}.", flush=True)
        status = run_to_its_end([sys.executable, "-m", "flows.pipeline"], folder, ends_with_us=True)
        if status:
            sentence = f"study {name}: the pipeline in {folder} failed; see above. The same command resumes it."
            raise UserError("stage_failed", sentence, stage="pipeline", status=status)
        _keep(folder, results)
        page = write_study(results, REPORTS / name, _decisive(folder))
    if not seeds:
        page = write_study(results, REPORTS / name, _decisive(folder))
    print(page)
    print(f"{REPORTS / name / 'study.md'} is this page; {results} holds what other machines can add to.")


def _keep(folder: Path, results: Path) -> None:
    from agentrefine.tuning.hardware import processor  # imports torch

    keep_results(load_params(folder / PARAMS), Project(folder), results, processor().description)


def _decisive(folder: Path) -> str:
    """The benchmark that the title is about."""
    own = folder / PARAMS
    return load_params(own if own.is_file() else PARAMS).report.champion_benchmark
