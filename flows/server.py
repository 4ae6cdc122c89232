"""The Prefect server that a command reports to: the configured one, the one of `agentrefine serve`, or a temporary one.

Starting a server takes longer than many a stage, so the temporary one stays for some seconds after its last user: the
stages of a `dvc repro`, which come one after the other, start it once, and stages that run side by side report to one.

Each server has a folder in Prefect's home. Locks in it show who is there, so that nothing is left behind by a process
that was killed: every user of a temporary server holds a shared lock on `users`, a server an exclusive one on `alive`.
A temporary server ends when it has held `users` alone for long enough; one that no longer answers is ended by the next
command, which finds its process in the server's record.
"""

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import prefect
import psutil
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from agentrefine.errors import UserError
from agentrefine.files import short_hash, write_json
from agentrefine.proxies import check_proxy
from tasks.checks import ANSWER_SECONDS, answers, prefect_home
from tasks.processes import birth

HOST = "127.0.0.1"
START_SECONDS = 120
"""Seconds for the server to start, unless Prefect's own setting gives more; a busy machine takes a minute."""
IDLE_SECONDS = 20
"""Seconds without a user after which the server ends."""
HUNG_SECONDS = 60
"""Seconds for a server that has started long ago to answer, before it is ended and another is started."""
POLL_SECONDS = 0.1
NO_PAGES = {
    "PREFECT_UI_ENABLED": "0",
    # The catalogue of blocks is for the pages; the server of `agentrefine serve` fills it in where it is missing.
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
    "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "0",
}
"""Settings of a temporary server, which starts faster without what only pages need."""


class ServerRecord(NamedTuple):
    """A server's address and its process, in the server's folder.

    Example: `ServerRecord("http://127.0.0.1:34567/api", 4711, "0f3c...:480512")`

    Attributes:
        api: the address of its API.
        pid: its process.
        created: when this process began (`tasks.processes.birth`): a later one may have the same number.
    """

    api: str
    pid: int
    created: str

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if birth(self.pid) == self.created:
                return process
        return None


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """The server that is configured (PREFECT_API_URL), served, or temporary; gives a function that waits for it.

    A temporary server is started at once, so that it starts while the block gets ready. After the function was called,
    flows of the block report to the server.

    Raises:
        UserError: the configured server does not answer, Prefect's home cannot be written, or (from the function) the
            temporary server does not start.
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
            raise UserError("endpoint_unreachable", message, name="PREFECT_API_URL", url=configured)
        yield lambda: None
        return
    home = prefect_home()
    with ExitStack() as used:
        if served := served_api(home):
            used.enter_context(temporary_settings({PREFECT_API_URL: served}))
            yield lambda: None
            return
        # Each Prefect home, version and environment has a server: another version's may not know the database.
        folder = home / f"server-{short_hash(prefect.__version__, sys.executable)}"
        folder.mkdir(parents=True, exist_ok=True)
        users = used.enter_context((folder / "users").open("a"))
        fcntl.flock(users, fcntl.LOCK_SH)
        started = _start_if_there_is_none(folder)

        def connect() -> None:
            used.enter_context(temporary_settings({PREFECT_API_URL: _address(folder, started)}))
            logging.getLogger("prefect.flow_runs").addFilter(_no_link)

        yield connect


def served_api(home: Path) -> str | None:
    """The address of the server that `agentrefine serve` runs with a Prefect home, if it does."""
    folder = home / "served"
    found = read_record(folder)
    served = found is not None and found.process() is not None and is_alive(folder)
    return found.api if found and served and answers(_health(found.api), ANSWER_SECONDS) else None


def write_record(folder: Path, api: str) -> None:
    """Say where the server is that this process is, or runs."""
    write_json(folder / "record.json", {"api": api, "pid": os.getpid(), "created": birth(os.getpid())})


def read_record(folder: Path) -> ServerRecord | None:
    """The record of a folder's last server, if it has written one."""
    try:
        return ServerRecord(**json.loads((folder / "record.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def is_alive(folder: Path) -> bool:
    """Whether the lock of a folder's server is held."""
    with suppress(FileNotFoundError), (folder / "alive").open("r") as alive:
        return not lock_alone(alive)
    return False


def _start_if_there_is_none(folder: Path) -> "subprocess.Popen[bytes] | None":
    """Start the folder's server, which takes over the lock `alive`, unless it runs."""
    with (folder / "start").open("a") as start, (folder / "alive").open("a") as alive:
        fcntl.flock(start, fcntl.LOCK_EX)  # one command at a time
        if not lock_alone(alive):
            return None
        (folder / "record.json").unlink(missing_ok=True)
        with socket.create_server((HOST, 0)) as listening, (folder / "server.log").open("w") as log:
            # A session of its own: Ctrl-C must not end the server before the flow has reported its end.
            return subprocess.Popen(
                [sys.executable, "-m", "flows.server", str(folder), str(listening.fileno()), str(IDLE_SECONDS)],
                env={**os.environ, **NO_PAGES},
                pass_fds=[listening.fileno(), alive.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _address(folder: Path, started: "subprocess.Popen[bytes] | None") -> str:
    """The address of the folder's server when it answers; `started` is its process if this command has started it.

    Raises:
        UserError: it has ended, or does not answer in time.
    """
    if started is None:
        with suppress(UserError):
            return _wait_for(folder, HUNG_SECONDS if _age(folder) > START_SECONDS else START_SECONDS)
        _end(folder)
        started = _start_if_there_is_none(folder)
    if not is_alive(folder) or not _answers(folder):
        print("Prefect's temporary server is starting ...", file=sys.stderr, flush=True)
    try:
        return _wait_for(folder, max(START_SECONDS, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()))
    except BaseException:
        if started is not None:
            started.kill()
            started.wait()
        raise


def _age(folder: Path) -> float:
    """Seconds since the folder's server began; 0 where none runs that has written its record."""
    found = read_record(folder)
    process = found.process() if found else None
    return time.time() - process.create_time() if process else 0.0


def _answers(folder: Path) -> bool:
    found = read_record(folder)
    return found is not None and answers(_health(found.api), ANSWER_SECONDS)


def _wait_for(folder: Path, limit: float) -> str:
    """The address of the folder's server when it answers.

    Raises:
        UserError: it has ended, or does not answer in time.
    """
    began = time.monotonic()
    reported = False
    while not _answers(folder):
        waited = time.monotonic() - began
        gone = not is_alive(folder)
        if gone or waited > limit:
            message = (
                f"Prefect's temporary server {'ended' if gone else 'did not start'} (waited {waited:.0f} s; its log is "
                f"{folder / 'server.log'}); run again when the machine is less busy, or raise "
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS."
            )
            raise UserError("server_not_started", message, file=folder / "server.log", ended=gone)
        if waited > IDLE_SECONDS and not reported:
            reported = True
            print(f"... still waiting for it, up to {limit:.0f} s.", file=sys.stderr, flush=True)
        time.sleep(POLL_SECONDS)
    found = read_record(folder)
    assert found is not None
    return found.api


def _end(folder: Path) -> None:
    """End a server that does not answer, if the process of its record is still the one that wrote it."""
    found = read_record(folder)
    process = found.process() if found is not None and is_alive(folder) else None
    if process is not None:
        with suppress(psutil.NoSuchProcess):
            process.kill()
        deadline = time.monotonic() + ANSWER_SECONDS
        while is_alive(folder) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _health(api: str) -> str:
    return f"{api.rstrip('/')}/health"


def _no_link(record: logging.LogRecord) -> bool:
    """The temporary server has no pages, so Prefect's link to a run leads nowhere."""
    return not record.getMessage().startswith("View at ")


def lock_alone(file: IO[str]) -> bool:
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
            unused = unused + 1 if lock_alone(users) else 0
            if unused < seconds:
                fcntl.flock(users, fcntl.LOCK_UN)
        os._exit(0)  # both locks end with the process, so that a user who comes now starts another server


def main() -> None:
    """Be the server, on a socket that is open already, until nobody uses it."""
    folder, listening = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    write_record(folder, f"http://{HOST}:{listening.getsockname()[1]}/api")
    threading.Thread(target=_end_when_unused, args=(folder, int(sys.argv[3])), daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main()
