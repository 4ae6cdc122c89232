"""A copy of this project in a folder of its own, with settings so small that the whole pipeline takes a minute."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from flows.workspace import set_params
from tests.helpers.paths import ROOT
from tests.helpers.prefect_server import prefect_api

NOT_COPIED = (
    "tests/",
    "docs/",
    "reports/",
    "runs/",
    "data/synthesis/",
    "data/verification/",
    "data/repair/",
    "data/evaluation/",
)
"""What the stages write, or do not read."""

SMALL_RUN = {
    "personas.limit": 24,
    "synthesis.samples_per_persona": 2,
    "base_model.tiny.pretraining_tokens": 40_000,
    "evaluation.benchmarks": ["worlds_layouts", "worlds_families", "worlds_perturbed", "babyai"],
    "quality_gate.overlap_benchmarks": ["babyai"],
    "evaluation.episodes": 3,
    "evaluation.max_steps": 3,
    "evaluation.max_new_tokens": 24,
    "quality_gate.thresholds.data_set.trajectories.min": 20.0,
    "quality_gate.thresholds.data_set.personas.min": 10.0,
}


class ProjectCopy:
    """A copy of the project and the commands that a user would give in it."""

    def __init__(self, folder: Path, *, own_server: bool = False) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "PYTHONPATH": str(folder),
        }
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILES_PATH"):
            self.environment.pop(name, None)
        if not own_server:
            self.environment["PREFECT_API_URL"] = prefect_api()

    @classmethod
    def make(cls, folder: Path, *, own_server: bool = False, **overrides: object) -> "ProjectCopy":
        """Copy what git would clone, and shrink the settings.

        With `own_server` each command starts a Prefect server for itself, as it does for a user without one.
        """
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for name in listed:
            if (ROOT / name).is_file() and not name.startswith(NOT_COPIED):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        (folder / "dvc.lock").unlink(missing_ok=True)
        copy = cls(folder, own_server=own_server)
        copy.set_params(**{**SMALL_RUN, **overrides})
        copy.git("init", "-q")
        copy.commit("start")
        return copy

    def set_params(self, **values: object) -> None:
        """Change params.yaml by dotted keys."""
        set_params(self.folder / "params.yaml", [f"{key}={value}" for key, value in values.items()])

    def git(self, *arguments: str) -> None:
        """A git command."""
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def run(self, *command: str, seconds: float = 500) -> "subprocess.CompletedProcess[str]":
        """A command in the folder, its output captured; `python` is this Python."""
        words = [sys.executable if word == "python" else word for word in command]
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    def stage(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """One stage's command, or the pipeline's."""
        return self.run("python", "-m", f"flows.{name}", *arguments)

    def changed_stages(self) -> set[str]:
        """The stages that DVC would run again."""
        done = self.run("dvc", "status", "--json")
        assert done.returncode == 0, done.stderr
        return set(json.loads(done.stdout))

    def lock(self) -> dict[str, object]:
        """The stages in dvc.lock."""
        return dict(yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"])


def digests(folder: Path) -> dict[str, bytes]:
    """The bytes of every file under a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
