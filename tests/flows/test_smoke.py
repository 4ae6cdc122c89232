"""`make smoke`: every stage of the default run on a few personas, beside the project's results."""

import os
import sqlite3
import sys
from pathlib import Path

import pytest

from agentrefine.params import load_params
from flows import smoke
from flows.workspace import set_params
from tasks.params import PARAMS
from tests.helpers.errors import refused
from tests.helpers.project import ProjectCopy


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command that takes this process's place."""
    taken: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: taken.append(command))
    return taken


def test_it_pays_nobody_whatever_the_project_says(bare_project: Path, pipeline: list[list[str]]) -> None:
    paid = ["teacher.base_url='https://example.org/v1'", "teacher.model=m", "base_model.path=some/model", "seed=9"]
    set_params(PARAMS, paid)
    smoke.run_smoke(["evaluation.episodes=2"])
    assert pipeline == [[sys.executable, "-m", "flows.pipeline"]]
    assert Path.cwd() == bare_project / smoke.FOLDER
    params = load_params()
    assert params.teacher.uses_simulated_teacher
    assert params.base_model.is_tiny
    assert params.evaluation.episodes == 2
    assert params.tracking.experiment == params.tracking.registered_model == smoke.NAME
    assert params.tracking.uri == "sqlite:///../../mlflow.db"


def test_an_override_that_is_no_key_is_refused(bare_project: Path, pipeline: list[list[str]]) -> None:
    with refused("bad_value", key="evaluation.episodes"):
        smoke.run_smoke(["evaluation.episodes=few"])
    assert not pipeline


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_stage_runs_in_its_folder_and_the_projects_results_stay(tmp_path: Path) -> None:
    copy = ProjectCopy.make(tmp_path / "project")
    before = (copy.folder / "params.yaml").read_bytes()
    done = copy.run("python", "-m", "flows.cli", "smoke", seconds=1000)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "12 stages to run, in about " in done.stdout
    run = copy.folder / "runs" / "smoke"
    for name in ("reports/report.html", "reports/evaluation/refinement/index.html", "models/refinement", "dvc.lock"):
        assert (run / name).exists(), name
    assert not (copy.folder / "dvc.lock").exists()
    assert not (copy.folder / "reports").exists()
    assert (copy.folder / "params.yaml").read_bytes() == before
    with sqlite3.connect(copy.folder / "mlflow.db") as store:
        assert {name for (name,) in store.execute("select name from registered_models").fetchall()} == {smoke.NAME}
    again = copy.run("python", "-m", "flows.cli", "smoke")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Every stage is up to date" in again.stdout
