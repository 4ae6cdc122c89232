"""Prefect's temporary server, where none is configured: one that all commands in this folder share.

Starting it takes longer than many a stage, so it stays for some seconds after its last user: the stages of a
`dvc repro`, which come one after the other, start it once, and stages that run side by side report to one.

The locks show who is there, so that nothing is left behind by a process that was killed: every user holds a shared
lock on `users`, the server an exclusive one on `alive`. The server ends when it has held `users` alone for long enough.
"""

import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import prefect
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from agentrefine.errors import UserError
from agentrefine.files import short_hash
from agentrefine.proxies import check_proxy
from tasks.checks import ANSWER_SECONDS, answers

HOST = "127.0.0.1"
START_SECONDS = 120
"""Seconds for the server to start, unless Prefect's own setting gives more; a busy machine takes a minute."""
IDLE_SECONDS = 20
"""Seconds without a user after which the server ends."""
POLL_SECONDS = 0.2


@contextmanager
def prefect_server() -> Iterator[None]:
    """Let the flows of the block report to the configured server (PREFECT_API_URL), or to the shared temporary one.

    Raises:
        UserError: the configured server does not answer, or the temporary one does not start.
    """
    configured = PREFECT_API_URL.value()
    if configured:
        check_proxy(configured, "PREFECT_API_URL")
        if not answers(_health(configured), ANSWER_SECONDS):
            message = (
                f"PREFECT_API_URL: no Prefect server answers at {configured}; start it (make serve), or unset the "
                "variable (`prefect config unset PREFECT_API_URL` where a profile sets it), and a temporary server is "
                "started."
            )
            raise UserError("endpoint_unreachable", message, name="PREFECT_API_URL")
        yield
        return
    # Each working folder, Prefect home and version has a server, with its address, locks and log.
    identity = short_hash(str(PREFECT_HOME.value()), prefect.__version__, sys.executable)
    folder = Path(".prefect") / f"server-{identity}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with temporary_settings({PREFECT_API_URL: _address(folder)}):
            logging.getLogger("prefect.flow_runs").addFilter(_no_link)
            yield


def _address(folder: Path) -> str:
    """The address of the server's API; starts the server if there is none. One process at a time."""
    with (folder / "start").open("a") as start, (folder / "alive").open("a") as alive:
        fcntl.flock(start, fcntl.LOCK_EX)
        if _lock_alone(alive.fileno()):
            return _start(folder, alive.fileno())
        api = (folder / "address").read_text(encoding="utf-8")
        _wait_for(api, folder, ended=lambda: _lock_alone(alive.fileno()))
        return api


def _start(folder: Path, alive: int) -> str:
    """Start the server, which takes over the lock `alive`, and return its address when it answers."""
    with socket.create_server((HOST, 0)) as listening, (folder / "server.log").open("w") as log:
        api = f"http://{HOST}:{listening.getsockname()[1]}/api"
        (folder / "address").write_text(api, encoding="utf-8")
        # A session of its own: Ctrl-C must not end the server before the flow has reported its end.
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(folder), str(listening.fileno()), str(IDLE_SECONDS)],
            env={**os.environ, "PREFECT_UI_ENABLED": "0"},
            pass_fds=[listening.fileno(), alive],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    print("Prefect's temporary server is starting ...", file=sys.stderr, flush=True)
    try:
        _wait_for(api, folder, ended=lambda: server.poll() is not None)
    except BaseException:
        server.kill()
        server.wait()
        raise
    return api


def _wait_for(api: str, folder: Path, ended: Callable[[], bool]) -> None:
    """Wait until the server answers.

    Raises:
        UserError: it has ended, or does not answer in time.
    """
    began = time.monotonic()
    limit = max(START_SECONDS, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
    reported = False
    while not answers(_health(api), POLL_SECONDS * 10):
        waited = time.monotonic() - began
        gone = ended()
        if gone or waited > limit:
            message = (
                f"Prefect's temporary server {'ended' if gone else 'did not start'} (waited {waited:.0f} s; its log is "
                f"{folder / 'server.log'}); run again when the machine is less busy, or raise "
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS."
            )
            raise UserError("server_not_started", message, file=folder / "server.log", ended=gone)
        if waited > IDLE_SECONDS and not reported:
            reported = True
            print(f"... still waiting for it, up to {limit} s.", file=sys.stderr, flush=True)
        time.sleep(POLL_SECONDS)


def _health(api: str) -> str:
    return f"{api.rstrip('/')}/health"


def _no_link(record: logging.LogRecord) -> bool:
    """The temporary server has no pages, so Prefect's link to a run leads nowhere."""
    return not record.getMessage().startswith("View at ")


def _lock_alone(file: int) -> bool:
    """Take the exclusive lock on an open file if nobody else holds one on it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_when_unused(folder: Path, seconds: int) -> None:
    """End this process once nobody has used the server for so long."""
    with (folder / "users").open("a") as users:
        unused = 0
        while unused < seconds:
            time.sleep(1)
            unused = unused + 1 if _lock_alone(users.fileno()) else 0
            if unused < seconds:
                fcntl.flock(users, fcntl.LOCK_UN)
        os._exit(0)  # both locks end with the process, so that a user who comes now starts another server


def main() -> None:
    """Be the server, on a socket that is open already, until nobody uses it."""
    folder, listening = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    threading.Thread(target=_end_when_unused, args=(folder, int(sys.argv[3])), daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main()
