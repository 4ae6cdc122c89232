"""`agentrefine serve` in real projects: it ends whole, also when it is killed, and two clones do not see each other."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flows.serve import the_only_one
from tests.helpers.errors import refused
from tests.helpers.processes import end
from tests.helpers.project import ProjectCopy

WHERE = """
from flows.server import prefect_server
from prefect.settings import PREFECT_API_URL
with prefect_server() as connect:
    connect()
    print("api", PREFECT_API_URL.value())
"""


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@contextmanager
def serving(project: ProjectCopy) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The address of Prefect's API in a project and the process of the command; it is interrupted at the end."""
    command = [sys.executable, "-m", "flows.cli", "serve", "--prefect-port", free_port(), "--mlflow-port", free_port()]
    process = subprocess.Popen(
        command,
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = [process.stdout.readline() for _ in range(2)]
    assert printed[1].startswith("Prefect  http://127.0.0.1:"), printed
    try:
        yield f"{printed[1].split()[1]}/api", process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_a_second_command_in_one_home_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with the_only_one(tmp_path / "served", "http://127.0.0.1:1/api"):
        refusal = refused("already_serving", process=os.getpid(), api="http://127.0.0.1:1/api")
        with refusal, the_only_one(tmp_path / "served", "http://127.0.0.1:2/api"):
            pytest.fail("two at once")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_clones_serve_side_by_side_and_nothing_outlives_a_kill(tmp_path: Path) -> None:
    here, there = (ProjectCopy.make(tmp_path / name, own_server=True) for name in ("here", "there"))
    with serving(here) as (api, process):
        with serving(there) as (other, _):
            assert api != other
            for project, address in ((here, api), (there, other)):
                assert f"api {address}" in project.run("python", "-c", WHERE).stdout  # commands use what is served
                project.environment["PREFECT_API_URL"] = address
                shown = project.run("prefect", "deployment", "inspect", "agentrefine/local").stdout
                assert str(project.folder) in shown
                del project.environment["PREFECT_API_URL"]
        services = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert len(services) >= 3
        process.kill()
        assert end(*services, seconds=30)
    with serving(here) as (again, _):
        assert again != api
