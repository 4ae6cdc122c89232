"""Stages side by side: their output, an error of one, Ctrl-C, and what DVC records."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import flows  # noqa: F401  (sets the environment that keeps tools quiet)
from flows.side_by_side import run_side_by_side
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT

STAGE = """
    import sys, time
    from pathlib import Path
    from flows.side_by_side import end_with_parent
    end_with_parent()
    print("\\rpart: 50%|#####     | 1/2 [00:01<00:01]", end="", file=sys.stderr, flush=True)
    print("begun {name}", flush=True)
    try:
        Path("{name}.ready").touch()
        while not Path("{go}").exists():
            time.sleep(0.05)
        {end}
    except KeyboardInterrupt:
        Path("{name}.stopped").touch()
        sys.exit(130)
"""


def stage(name: str, go: str, end: str = "pass") -> list[str]:
    """A command that waits for the file `go` and then does `end`."""
    return [sys.executable, "-c", textwrap.dedent(STAGE).format(name=name, go=go, end=end)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def wait_for(file: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} did not come"
        time.sleep(0.05)


def test_stages_run_at_the_same_time_and_no_more_than_allowed(folder: Path) -> None:
    commands = {
        "a": stage("a", "b.begun", "Path('a.begun').touch()"),
        "b": [sys.executable, "-c", "from pathlib import Path; Path('b.begun').touch()"],
        "c": [sys.executable, "-c", "from pathlib import Path; assert Path('b.begun').exists()"],
    }
    ended = list(run_side_by_side(commands, 2))
    assert sorted(ended) == ["a", "b", "c"]
    assert ended.index("b") < ended.index("c")


def test_lines_appear_without_the_bars_that_they_were_printed_behind(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "go").touch()
    list(run_side_by_side({"a": stage("a", "go"), "b": stage("b", "go")}, 2))
    lines = [line.strip() for line in capfd.readouterr().err.replace("\r", "\n").splitlines()]
    assert {"begun a", "begun b"} <= set(lines)


WAIT_FOR_A = """
import time
from pathlib import Path
while not Path("a.ready").exists():
    time.sleep(0.1)
"""


def test_a_stage_that_fails_stops_the_others(folder: Path) -> None:
    commands = {
        "a": stage("a", "never"),
        "b": [sys.executable, "-c", WAIT_FOR_A + "raise SystemExit(4)"],
    }
    with refused("stage_failed", stage="b", status=4):
        list(run_side_by_side(commands, 2))
    assert (folder / "a.stopped").exists()


PIPELINE = """
    import sys
    from flows.side_by_side import run_side_by_side
    from flows.command import exit_with_sentence
    commands = {commands}
    exit_with_sentence(lambda: list(run_side_by_side(commands, 2)))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_stages_end_with_the_pipeline(folder: Path, ending: signal.Signals) -> None:
    started = {name: stage(name, "never").copy() for name in ("a", "b")}
    for name, command in started.items():
        command[-1] = command[-1].replace('print("begun', f"Path('{name}.begun').touch()\nprint(\"begun")
    code = textwrap.dedent(PIPELINE).format(commands=repr(started))
    pipeline = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    for name in started:
        wait_for(folder / f"{name}.begun")
    os.kill(pipeline.pid, ending)
    for name in started:
        wait_for(folder / f"{name}.stopped")
    assert pipeline.wait(60) == (130 if ending is signal.SIGINT else -signal.SIGKILL)
