"""A project's folder without results, for what makes folders of its own."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PRESETS = tuple(f"presets/{name}.yaml" for name in ("mistral-7b-lora", "smoke", "smollm2-135m-cpu", "study"))


@pytest.fixture
def bare_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder to stand in; the code is a link to ours."""
    for name in ("params.yaml", "dvc.yaml", ".dvcignore"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("presets", "data"):
        (tmp_path / name).mkdir()
    for name in ("data/personas.jsonl", *PRESETS):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("agentrefine", "tasks", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
