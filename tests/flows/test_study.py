"""`agentrefine study` with real tools: seeds one by one, a kill in between, and two clones that add up."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agentrefine.files import write_json
from flows.study import run_study
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT
from tests.helpers.project import ProjectCopy, digests

PRESET = """\
on_policy:
  round1: {model: refinement, worlds: 40, model_turns: 6}
tuning:
  tokens: 15000
  variants:
    refinement: {train_on: correct_turns, data_set: data/dataset}
    on_policy_1: {train_on: correct_turns, data_set: data/on_policy/round1}
evaluation:
  models: [base, refinement, on_policy_1]
  benchmarks: [worlds_layouts]
report:
  baseline: refinement
"""

RESULTS = "reports/study/try/results"


def study(project: ProjectCopy, *seeds: int) -> None:
    given = ["--seeds", *map(str, seeds)]
    done = project.run("python", "-m", "flows.cli", "study", "try", *given, seconds=600)
    assert done.returncode == 0, done.stderr[-3000:]


def study_killed_while_it_tunes(project: ProjectCopy, seed: int) -> None:
    """Kill the study and all that it has started, as the kernel does, when a tuning of this seed has begun."""
    command = [sys.executable, "-m", "flows.cli", "study", "try", "--seeds", str(seed)]
    with subprocess.Popen(
        command, cwd=project.folder, env=project.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        checkpoints = project.folder / "runs/study/try/checkpoints"
        began = time.monotonic()
        while not any(checkpoints.glob(f"refinement-{seed}/*/*")):
            assert running.poll() is None, "the study ended before it was killed"
            assert time.monotonic() - began < 400, "no tuning has begun"
            time.sleep(0.05)
        children = psutil.Process(running.pid).children(recursive=True)
        os.kill(running.pid, signal.SIGKILL)
        for child in children:
            child.kill()
        psutil.wait_procs(children, timeout=30)


@pytest.mark.parametrize(("name", "seeds"), [("../outside", [7]), ("a/b", [7]), ("", [])])
def test_a_name_that_is_no_folders_is_refused(bare_project: Path, name: str, seeds: list[int]) -> None:
    with refused("bad_value", name=name):
        run_study(name, seeds, [], [])
    assert not (bare_project / "runs").exists()


def test_what_is_wrong_with_a_later_seed_shows_before_anything_runs(bare_project: Path) -> None:
    with refused("bad_value", key="seeds", value=7):
        run_study("tiny", [8, 7, 7], [], [])
    with refused("unknown_name", name="studdy"):
        run_study("tiny", [7], ["studdy"], [])
    assert not (bare_project / "reports/study").exists()


def test_further_seeds_by_other_rules_are_refused_before_anything_runs(bare_project: Path) -> None:
    card = bare_project / "reports/study/tiny/results/base/card.json"
    write_json(card, {"variant": "base", "seed": None, "rules": {"seed": 6}, "code": "c", "machine": "m"})
    with refused("not_comparable", a="base"):
        run_study("tiny", [7], [], [])


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_passed_on_and_what_runs_may_end_in_peace(tmp_path: Path, interruption: int) -> None:
    program = (
        "import pathlib, time\nfrom flows.side_by_side import end_with_parent\nend_with_parent()\n"
        "pathlib.Path('begun').touch()\ntry:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(1)\n    pathlib.Path('ended').touch()\n"
    )
    command = f"[{sys.executable!r}, '-c', {program!r}]"
    runs = (
        "import pathlib, signal\nfrom flows.side_by_side import run_to_its_end\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where tests run in the background
        f"run_to_its_end({command}, pathlib.Path({str(tmp_path)!r}), ends_with_us=True)"
    )
    with subprocess.Popen([sys.executable, "-c", runs], cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        _wait_for(tmp_path / "begun")
        running.send_signal(interruption)
    _wait_for(tmp_path / "ended")


def _wait_for(file: Path) -> None:
    began = time.monotonic()
    while not file.exists():
        assert time.monotonic() - began < 60, f"{file.name} did not come"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_seed_of_another_clone_or_after_a_kill_has_the_same_bytes_and_adds_up(tmp_path: Path) -> None:
    one = ProjectCopy.make(tmp_path / "one", **{"+quality_gate.thresholds.on_policy.games.min": 1})
    (one.folder / "presets/study.yaml").write_text(PRESET)
    study(one, 7)
    first = digests(one.folder / RESULTS)
    assert {name.split("/")[0] for name in first} == {"chance", "base", "refinement-7", "on_policy_1-7"}
    other = ProjectCopy(tmp_path / "other")  # a clone that has made the games and the base, as another one would
    shutil.copytree(one.folder, other.folder, symlinks=True)
    shutil.rmtree(other.folder / "reports/study")

    study_killed_while_it_tunes(other, 8)
    study(other, 8)
    study(one, 7, 8)
    both = digests(one.folder / RESULTS)
    assert {name: both[name] for name in first} == first
    elsewhere = digests(other.folder / RESULTS)
    of_seed_8 = {name: content for name, content in elsewhere.items() if "-8/" in name}
    assert len(of_seed_8) == 4
    assert {name: both[name] for name in of_seed_8} == of_seed_8

    page = (one.folder / "reports/study/try/study.md").read_bytes()
    for name in ("refinement-7", "on_policy_1-7"):
        shutil.copytree(one.folder / RESULTS / name, other.folder / RESULTS / name)
    study(other)
    assert (other.folder / "reports/study/try/study.md").read_bytes() == page
    assert b"| percent | seed 7 | seed 8 |" in page
