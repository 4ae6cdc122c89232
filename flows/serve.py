"""Prefect server, worker and MLflow on this machine only: `agentrefine serve`.

Starts them on 127.0.0.1, deploys the flows of prefect.yaml, prints the addresses, and stops them when interrupted.
They end with this process, in whatever way it ends (`flows.service`). Meanwhile all commands that use the same Prefect
home report to this server.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from agentrefine.errors import UserError
from agentrefine.params import load_params
from flows.cli import main
from flows.server import lock_alone, read_record, write_record
from tasks.checks import answers, prefect_home

HOST = "127.0.0.1"
LOGS = Path(".prefect/logs")
START_SECONDS = 120
"""Seconds for a server to answer after its start."""
STOP_SECONDS = 15
"""Seconds for a process to end when it is asked to, before it is killed."""
LEFTOVER_SECONDS = 20
"""Seconds to wait for the processes of an earlier `agentrefine serve` that was killed; `flows.service` ends them."""


@contextmanager
def the_only_one(folder: Path, api: str) -> Iterator[int]:
    """Say that the server at `api` is the one of this Prefect home; gives the file that its processes hold open.

    Raises:
        UserError: another `agentrefine serve` has this home.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "alive").open("a") as alive:
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while not lock_alone(alive):
            found = read_record(folder)
            if found and found.process():
                message = f"`agentrefine serve` runs already, at {found.api}; use it, or stop process {found.pid}."
                raise UserError("already_serving", message, process=found.pid, api=found.api)
            if time.monotonic() > deadline:
                message = f"Processes of an earlier `agentrefine serve` do not end; the logs are in {LOGS}."
                raise UserError("already_serving", message, file=LOGS)
            time.sleep(0.5)
        write_record(folder, api)
        yield alive.fileno()


@contextmanager
def service(name: str, alive: int, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of Python with its output in a log file; stop it, and what it started, on leaving."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.service", str(os.getpid()), *command],
            pass_fds=[alive],
            stdin=subprocess.DEVNULL,  # a run that a worker starts has nobody to ask
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process group that `process` leads: politely, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def wait_for(name: str, process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the server answers.

    Raises:
        UserError: it ended or did not answer in time; names its log.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if answers(url, seconds=5):
            return
        time.sleep(0.5)
    log = LOGS / f"{name}.log"
    raise UserError("server_not_started", f"{name} did not start; its log is {log}.", name=name, file=log)


def serve(prefect_port: int, mlflow_port: int) -> None:
    """Start everything and wait until the user interrupts, which is the regular end.

    Raises:
        UserError: it runs already, Prefect's home cannot be written, a port is taken, or a server does not start or
            ends.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # a background process starts with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    api = f"http://{HOST}:{prefect_port}/api"
    with suppress(KeyboardInterrupt), the_only_one(prefect_home() / "served", api) as alive:
        for name, port in (("prefect-server", prefect_port), ("mlflow", mlflow_port)):
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    remedy = f"stop what listens there or choose another by --{name.partition('-')[0]}-port"
                    raise UserError("port_taken", f"{name}: port {port} is taken; {remedy}.", name=name, port=port)
        _serve(api, prefect_port, mlflow_port, alive)
    print("\nStopped.")


def _serve(api: str, prefect_port: int, mlflow_port: int, alive: int) -> NoReturn:
    tracking = load_params().tracking
    os.environ |= {"PREFECT_API_URL": api, "MLFLOW_BACKEND_STORE_URI": tracking.uri}
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # six processes that nothing here needs
    print("Prefect's server, MLflow and a worker are starting; this takes up to a minute ...", file=sys.stderr)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.dead_runs import end_dead_runs
    from tasks.tracking.run_list import run_list_address  # imports MLflow

    start = ("prefect", "server", "start", "--host", HOST, "--port", str(prefect_port))
    with (
        service("prefect-server", alive, *start) as server,
        service("mlflow", alive, "mlflow", "ui", "--host", HOST, "--port", str(mlflow_port)) as mlflow,
    ):
        wait_for("prefect-server", server, f"{api}/health")
        _prefect("work-pool", "create", "local", "--type", "process", "--overwrite")
        _prefect("--no-prompt", "deploy", "--all")
        with temporary_settings({PREFECT_API_URL: api}):
            end_dead_runs()  # the deployment runs one at a time: of one that was killed nobody would free the place
        work = ("prefect", "worker", "start", "--pool", "local", "--type", "process")
        with service("prefect-worker", alive, *work) as worker:
            wait_for("mlflow", mlflow, f"http://{HOST}:{mlflow_port}/health")
            runs = run_list_address(f"http://{HOST}:{mlflow_port}", tracking)
            print(
                f"Prefect  http://{HOST}:{prefect_port}\nMLflow   {runs}\n"
                f"Run      PREFECT_API_URL={api} prefect deployment run 'agentrefine/local' --watch\n"
                "Stop     Ctrl-C",
                flush=True,
            )
            while all(process.poll() is None for process in (server, mlflow, worker)):
                time.sleep(1)
            raise UserError("server_ended", f"A server has ended; the logs are in {LOGS}.", file=LOGS)


def _prefect(*command: str) -> None:
    """Run a command of Prefect that ends by itself."""
    done = subprocess.run([sys.executable, "-m", "prefect", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"prefect {' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-300:]}"
        raise UserError("command_failed", message, command=f"prefect {' '.join(command)}", status=done.returncode)


if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
