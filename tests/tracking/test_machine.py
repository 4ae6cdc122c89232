"""What a run keeps of the machine: which processes are gone, and whether the code is that of the commit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY

from tasks.tracking import machine
from tests.helpers.paths import ROOT


def test_this_process_is_there_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    known = machine.this_process()
    assert not machine.is_gone(known)
    monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
    monkeypatch.setattr(psutil.Process, "create_time", lambda *_: 1.0)
    assert not machine.is_gone(known)


def test_a_process_that_ended_and_one_with_the_number_of_a_later_one_are_gone() -> None:
    host, _, began = machine.this_process().split(" ")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert machine.is_gone(f"{host} {child.pid} {began}")
    assert machine.is_gone(f"{host} {os.getppid()} {began}")


def test_of_another_machine_nothing_is_known() -> None:
    _, number, _ = machine.this_process().split(" ")
    assert not machine.is_gone(f"elsewhere {number} 1:1")


def kept_in_git() -> list[str]:
    """The files and folders that stages write and git keeps, as dvc.yaml lists them, with `x` for every key."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    definitions = [stage.get("do", stage) for stage in stages]
    outs = [out for stage in definitions for out in [*stage.get("outs", []), *stage.get("metrics", [])]]
    small = [path for out in outs if isinstance(out, dict) for path, how in out.items() if how == {"cache": False}]
    return [re.sub(r"\$\{[^}]+\}", "x", path) for path in small]


INPUTS = (
    "agentrefine/prompt.md",
    "tasks/a.py",
    "flows/a.py",
    "params.yaml",
    "presets/a.yaml",
    "dvc.yaml",
    "chats.jsonl",
)


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in git in which everything is as in its commit."""
    for name in (*kept_in_git(), *INPUTS, "data/personas.jsonl", "dvc.lock", "README.md", "docs/a.md"):
        file = tmp_path / name if Path(name).suffix else tmp_path / name / "plot.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("before")
    monkeypatch.chdir(tmp_path)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], check=True)
    return tmp_path


def is_dirty() -> bool:
    tags = machine.source("agentrefine run")
    assert len(tags[MLFLOW_GIT_COMMIT]) == 40
    return {"true": True, "false": False}[tags[MLFLOW_GIT_DIRTY]]


def test_what_a_run_writes_and_a_document_do_not_make_the_commit_dirty(committed: Path) -> None:
    assert len(kept_in_git()) > 10
    for file in committed.rglob("*"):
        name = file.relative_to(committed).as_posix()
        if file.is_file() and not name.startswith(".git/") and name not in (*INPUTS, "data/personas.jsonl"):
            file.write_text("after")
    assert not is_dirty()
    (committed / "untracked.py").touch()
    assert not is_dirty()


@pytest.mark.parametrize("name", [*INPUTS, "data/personas.jsonl"])
def test_a_changed_input_makes_the_commit_dirty_wherever_the_run_works(
    committed: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (committed / name).write_text("after")
    assert is_dirty()
    (committed / "runs" / "smoke").mkdir(parents=True)
    monkeypatch.chdir(committed / "runs" / "smoke")
    assert is_dirty()
