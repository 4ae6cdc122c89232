"""Starts the simulated teacher's server as a process of its own, and makes sure that it ends."""

import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from agentrefine.errors import UserError
from agentrefine.params.teacher import SimulatedTeacher

SECONDS_TO_START = 60.0
"""Seconds for the server to print its address."""
SECONDS_TO_STOP = 5.0
"""Seconds for the server to end when it is asked to, before it is killed."""


@contextmanager
def simulated_teacher(params: SimulatedTeacher, *flags: str) -> Iterator[str]:
    """Run the simulated teacher on a free port of 127.0.0.1 and give its base URL (ends in `/v1`).

    The server is stopped when the block is left, in whatever way; when this process is killed, it ends by itself.

    `flags` are more of `python -m agentrefine.simulation --help`, such as `--latency`, `0.1`.

    Raises:
        UserError: the server does not start; says what it printed last.
    """
    command = [sys.executable, "-m", "agentrefine.simulation", "--port", "0", "--parent", str(os.getpid())]
    command += ["--params", params.model_dump_json(), *flags]
    with (
        tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True) as process,
    ):
        try:
            yield _address(process, errors)
        finally:
            process.terminate()
            try:
                process.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[str], errors: IO[str]) -> str:
    """The line that the server prints once it listens."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        address = process.stdout.readline().strip() if selector.select(SECONDS_TO_START) else ""
    if address.startswith("http://"):
        return address
    errors.seek(0)
    last = (errors.read().strip().splitlines() or ["it printed nothing"])[-1]
    message = (
        f"The simulated teacher did not start within {SECONDS_TO_START:.0f} s ({last}); run it by hand: "
        "python -m agentrefine.simulation --port 0"
    )
    raise UserError("server_not_started", message, seconds=SECONDS_TO_START)
