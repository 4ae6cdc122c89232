"""One Prefect server for all projects of the tests: a command that starts its own takes ten seconds more."""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import cache
from pathlib import Path

SECONDS_TO_START = 120


@cache
def prefect_api() -> str:
    """The server's address; it is started by the first who asks and ends with this process."""
    home = Path(tempfile.mkdtemp(prefix="prefect-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    atexit.register(_stop, server, home)
    api = f"http://127.0.0.1:{port}/api"
    deadline = time.monotonic() + SECONDS_TO_START
    while not _answers(f"{api}/health"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((home / "server.log").read_text())
        time.sleep(0.2)
    return api


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def _stop(server: "subprocess.Popen[bytes]", home: Path) -> None:
    server.terminate()
    server.wait(30)
    shutil.rmtree(home, ignore_errors=True)
