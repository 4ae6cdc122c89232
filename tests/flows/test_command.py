"""How a command ends that SIGTERM stops: as by Ctrl-C, with one sentence and the shell's status for that signal."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.paths import ROOT
from tests.helpers.prefect_server import prefect_api

PLAIN = """
    import os, signal
    from flows.command import exit_with_sentence
    exit_with_sentence(lambda: os.kill(os.getpid(), signal.{name}))
"""

FLOW = """
    import os, signal, time
    from pathlib import Path
    from prefect import flow, task
    from flows.command import exit_with_sentence
    from tasks.tracking import runs
    from tests.helpers.results_tree import params_for

    @task
    def step():
        with runs.live_evaluation("chance", "c", params_for(Path.cwd())):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    @flow
    def stage():
        step()

    exit_with_sentence(stage)
"""


def ended(code: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_command_that_is_stopped_ends_with_one_sentence_and_the_signals_status(
    tmp_path: Path, name: str, status: int
) -> None:
    done = ended(PLAIN.format(name=name), tmp_path)
    assert done.returncode == status
    assert done.stderr.startswith("\nStopped. Run the same command again to resume: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_signals_handler_is_as_before_after_a_command() -> None:
    from flows.command import exit_with_sentence

    before = signal.getsignal(signal.SIGTERM)
    exit_with_sentence(lambda: None)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_stage_that_is_terminated_ends_so_too_and_its_runs_are_killed(tmp_path: Path) -> None:
    done = ended(FLOW, tmp_path, PREFECT_API_URL=prefect_api())
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("Stopped. Run the same command again to resume: ") == 1
    assert "Traceback" not in done.stdout + done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("agentrefine").experiment_id
    found = {run.info.run_name: run.info.status for run in client.search_runs([experiment], "tags.model = 'chance'")}
    assert found == {"chance / seed 7": "KILLED", "chance / evaluation": "KILLED"}
