"""A module of Python as a service that ends with the process that started it: python -m flows.service PID MODULE ...

Servers of others (Prefect's, MLflow's) do not notice when the process that started them is killed.
"""

import os
import runpy
import signal
import sys
import threading
import time

from flows.side_by_side import WITH_PARENT

POLL_SECONDS = 0.5
STOP_SECONDS = 10
"""Seconds for the service, and what it has started, to end when it is asked to, before all of it is killed."""


def _end_after_parent(parent: int) -> None:
    """End this process group, which `agentrefine serve` made for the service alone, once the parent is gone."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.killpg(0, signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_after_parent, args=(int(sys.argv[1]),), daemon=True).start()
    os.environ[WITH_PARENT] = str(os.getpid())  # the runs that a worker starts, each in a session of its own
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
