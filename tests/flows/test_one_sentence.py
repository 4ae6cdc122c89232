"""What a user has to fix is one sentence in the terminal, wherever in the flows it was raised."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.prefect_server import prefect_api

PROGRAM = """
    import sys
    from prefect import flow, task
    from prefect.task_runners import ProcessPoolTaskRunner
    from agentrefine.errors import UserError
    from flows.command import exit_with_sentence
    import tasks.tracking

    @task
    def step():
        raise UserError("bad_value", "the key x is wrong; correct it.")

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def stage():
        step.submit().result()

    @flow
    def pipeline():
        stage()

    if __name__ == "__main__":
        exit_with_sentence(pipeline) if sys.argv[1] == "command" else pipeline(return_state=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "status"), [("command", 1), ("deployment", 0)])
def test_it_is_printed_once_and_without_a_stack(tmp_path: Path, kind: str, status: int) -> None:
    """A deployment's run has no command around it that prints the sentence at its end."""
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    environment = {**os.environ, "PREFECT_API_URL": prefect_api(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "program.py", kind], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr
    assert done.returncode == status, printed
    assert printed.count("the key x is wrong; correct it.") == 1, printed
    assert "Traceback" not in printed
    assert "UserError" not in printed
    assert printed.count("Finished in state Failed()") == 3
