"""DVC and the parameters that params.yaml leaves out: a changed default makes the stages that read it run again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT
from tests.params.test_defaults import SHORTEST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = ("synthesis", "verification", "tuning")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The stage `params` and the parameters of three others, whose commands do nothing."""
    for name in ("agentrefine", "tasks", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / ".dvcignore", tmp_path / ".dvcignore")
    given = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    stages = {"params": given["params"]}
    for name in STAGES:
        key = "${key}" if "do" in given[name] else ""
        stage = {
            "cmd": f"echo done > {name}{key}.txt",
            "params": given[name].get("do", given[name])["params"],
            "outs": [f"{name}{key}.txt"],
        }
        stages[name] = {"foreach": given[name]["foreach"], "do": stage} if key else stage
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SHORTEST))
    (tmp_path / ".gitignore").write_text("__pycache__/\n*.txt\n")
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "dvc", "init", "-q")
    run(tmp_path, "dvc", "repro")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "DVC_NO_ANALYTICS": "1",
        **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout + done.stderr


def ran(output: str) -> set[str]:
    """The stages that DVC ran, `params` left out."""
    names = {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}
    return names - {"params"}


def test_keys_that_are_left_out_neither_break_dvc_nor_hide_a_changed_default(project: Path) -> None:
    assert "up to date" in run(project, "dvc", "status")
    section = project / "agentrefine/params/__init__.py"
    before = section.read_text()
    section.write_text(before.replace("= param(60,", "= param(50,"))
    assert section.read_text() != before
    assert ran(run(project, "dvc", "repro")) == {"synthesis", "verification"}
    assert "up to date" in run(project, "dvc", "status")


def test_a_value_for_one_run_concerns_the_stages_that_read_it(project: Path) -> None:
    assert ran(run(project, "dvc", "exp", "run", "-S", "+tuning.epochs=3")) == {
        "tuning@expert_only",
        "tuning@refinement",
    }
    assert yaml.safe_load((project / "params.resolved.yaml").read_text())["tuning"]["epochs"] == 3
    assert ran(run(project, "dvc", "exp", "run", "-S", "tuning.epochs=4")) == {
        "tuning@expert_only",
        "tuning@refinement",
    }
    (project / "params.yaml").write_text(yaml.safe_dump(SHORTEST | {"teacher": {"concurrency": 4}}))
    assert not ran(run(project, "dvc", "repro", "synthesis", "verification"))
