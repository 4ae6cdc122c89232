"""Prefect server, worker and MLflow on this machine only: `agentrefine serve`.

Starts them on 127.0.0.1, deploys the flows of prefect.yaml, prints the addresses, and stops them when interrupted.
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
from tasks.checks import answers

HOST = "127.0.0.1"
LOGS = Path(".prefect/logs")
START_SECONDS = 120
"""Seconds for a server to answer after its start."""
STOP_SECONDS = 15
"""Seconds for a process to end when it is asked to, before it is killed."""


@contextmanager
def service(name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of Python with its output in a log file; stop it, and what it started, on leaving."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
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
        UserError: a port is taken, or a server does not start or ends.
    """
    for name, port in (("prefect-server", prefect_port), ("mlflow", mlflow_port)):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                remedy = f"stop what listens there or choose another by --{name.partition('-')[0]}-port"
                raise UserError("port_taken", f"{name}: port {port} is taken; {remedy}.", name=name, port=port)
    for number in (signal.SIGTERM, signal.SIGINT):  # a background process starts with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        _serve(prefect_port, mlflow_port)
    print("\nStopped.")


def _serve(prefect_port: int, mlflow_port: int) -> NoReturn:
    api = f"http://{HOST}:{prefect_port}/api"
    tracking = load_params().tracking
    os.environ |= {"PREFECT_API_URL": api, "MLFLOW_BACKEND_STORE_URI": tracking.uri}
    print("Prefect's server, MLflow and a worker are starting; this takes up to a minute ...", file=sys.stderr)
    from tasks.tracking.run_list import run_list_address  # imports MLflow

    with (
        service("prefect-server", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)) as server,
        service("mlflow", "mlflow", "ui", "--host", HOST, "--port", str(mlflow_port)) as mlflow,
    ):
        wait_for("prefect-server", server, f"{api}/health")
        _prefect("work-pool", "create", "local", "--type", "process", "--overwrite")
        _prefect("--no-prompt", "deploy", "--all")
        with service("prefect-worker", "prefect", "worker", "start", "--pool", "local", "--type", "process") as worker:
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
