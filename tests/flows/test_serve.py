"""`agentrefine serve` in real projects: it ends whole, also when it is killed, and two clones do not see each other."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running

from agentrefine.errors import UserError
from flows.dead_runs import end_dead_runs
from flows.serve import the_only_one
from flows.workspace import exclusive_use
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT
from tests.helpers.prefect_server import prefect_api
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


RUN = """
import time
from pathlib import Path
from flows.side_by_side import end_with_parent
end_with_parent()
Path("begun").touch()
try:
    time.sleep(300)
except KeyboardInterrupt:
    Path("interrupted").touch()
"""
WORKER = """
import subprocess, sys, time
from pathlib import Path
run = subprocess.Popen([sys.executable, "run.py"], start_new_session=True)
Path("pid").write_text(str(run.pid))
time.sleep(300)
"""


def test_a_run_in_a_session_of_its_own_is_interrupted_when_its_worker_is_killed(tmp_path: Path) -> None:
    for name, text in (("run.py", RUN), ("worker.py", WORKER)):
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.service", str(os.getpid()), "worker"]
    worker = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    wait_for(tmp_path / "begun")
    run = int((tmp_path / "pid").read_text())
    worker.kill()
    worker.wait()
    assert end(run, seconds=30)
    assert (tmp_path / "interrupted").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("killed", ["command", "worker"])
def test_a_deployments_run_does_not_outlive_what_serves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    project = ProjectCopy.make(tmp_path / "project", own_server=True)
    params = (project.folder / "params.yaml").read_bytes()
    with serving(project) as (api, process):
        start_run(project, api)
        wait_for(project.folder / "data/synthesis/attempts.jsonl")
        run = running_in(project.folder)
        assert (project.folder / "params.yaml").read_bytes() != params
        if killed == "worker":
            [worker] = [child for child in psutil.Process(process.pid).children() if "worker" in child.cmdline()]
            worker.kill()
        else:
            process.kill()
        assert end(*run, seconds=60)
    monkeypatch.chdir(project.folder)
    _wait_until_free()
    with exclusive_use():
        assert (project.folder / "params.yaml").read_bytes() == params


def _wait_until_free() -> None:
    """Wait until no process holds the folder: one whose first thread has ended may have others that end after it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(UserError), exclusive_use():
            return
        time.sleep(0.2)


def wait_for(file: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + 300
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} did not come"
        time.sleep(0.5)


def running_in(folder: Path) -> list[int]:
    """The processes that work in a folder for a flow run of a deployment."""
    found = [
        process.pid
        for process in psutil.process_iter(["cwd", "environ"])
        if process.info["cwd"] == str(folder) and "PREFECT__FLOW_RUN_ID" in (process.info["environ"] or {})
    ]
    assert found
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_next_start_frees_the_place_of_a_run_that_was_killed_with_all_that_served_it(tmp_path: Path) -> None:
    """The deployment runs one at a time, and the server that knew who holds the place is gone."""
    project = ProjectCopy.make(tmp_path / "project", own_server=True)
    with serving(project) as (api, process):
        start_run(project, api)
        wait_for(project.folder / "data/synthesis/metrics.json")
        assert (states(api), places_held(api)) == (["RUNNING"], 1)
        for child in (process, *psutil.Process(process.pid).children(recursive=True)):
            os.kill(child.pid, signal.SIGKILL)
        process.wait(60)
    with serving(project) as (api, _):
        assert (states(api), places_held(api)) == (["CRASHED"], 0)
        start_run(project, api)
        deadline = time.monotonic() + 300
        while states(api)[-1] in ("SCHEDULED", "PENDING"):
            assert time.monotonic() < deadline, "it waits for a place"
            time.sleep(0.5)
        assert states(api) == ["CRASHED", "RUNNING"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_whose_process_is_there_is_not_ended(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_api()}), get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("agentrefine")
        deployment = client.create_deployment(flow_id, "local", concurrency_limit=2)
        there, gone = (client.create_flow_run_from_deployment(deployment).id for _ in range(2))
        environment = {**os.environ, "PREFECT__FLOW_RUN_ID": str(there)}
        with subprocess.Popen(["sleep", "300"], env=environment) as process:
            for run in (there, gone):
                client.update_flow_run(run, infrastructure_pid=str(process.pid))
                client.set_flow_run_state(run, Pending())
                client.set_flow_run_state(run, Running())
            assert end_dead_runs() == [gone]
            process.kill()
        assert end_dead_runs() == [there]
        assert client.read_flow_run(gone).state_type == StateType.CRASHED
        client.delete_deployment(deployment)


def start_run(project: ProjectCopy, api: str) -> None:
    """Start a run of the deployment that takes a while."""
    project.environment["PREFECT_API_URL"] = api
    overrides = json.dumps({"overrides": {"base_model.tiny.pretraining_tokens": 3_000_000}})
    started = project.run("prefect", "deployment", "run", "agentrefine/local", "--params", overrides)
    assert started.returncode == 0, started.stdout + started.stderr
    del project.environment["PREFECT_API_URL"]


def states(api: str) -> list[str]:
    """The states of the deployment's runs, oldest first."""
    of_deployment = {"flow_runs": {"deployment_id": {"is_null_": False}}, "sort": "EXPECTED_START_TIME_ASC"}
    return [run["state"]["type"] for run in httpx.post(f"{api}/flow_runs/filter", json=of_deployment).json()]


def places_held(api: str) -> int:
    """How many places of the deployment's concurrency limit are taken."""
    (limit,) = httpx.post(f"{api}/v2/concurrency_limits/filter", json={}).json()
    return int(limit["active_slots"])
