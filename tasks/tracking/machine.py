"""What a run keeps of where it works: commit, command and user, its process, and how busy the machine is."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_BRANCH,
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_DIRTY,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from tasks.processes import birth

SECONDS_BETWEEN_SAMPLES = 10
"""Seconds between two looks at processor, memory and GPU."""

WRITTEN = (
    *("dvc.lock", "params.resolved.yaml", "reports", "runs"),
    *("data/synthesis", "data/verification", "data/repair", "data/evaluation"),
)
"""What git tracks of that which stages write: a run changes it, and no later stage reads it from git."""

UNREAD = ("docs", "perf", "tests", "*.md")
"""What git tracks and no stage reads."""


def this_process() -> str:
    """Identifies this process among those of all machines and of all times: `host 4711 0f3c...:480512`."""
    return f"{socket.gethostname()} {os.getpid()} {birth(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether a process of this machine has ended; of other machines' nothing is known."""
    host, number, began = process.split(" ")
    return host == socket.gethostname() and birth(int(number)) != began


def source(command: str) -> dict[str, str]:
    """Tags that MLflow shows as a run's source: the command that repeats it, and the commit of the working folder."""
    commit = _git("rev-parse", "HEAD")
    tags = {MLFLOW_SOURCE_NAME: command, MLFLOW_SOURCE_TYPE: "LOCAL", MLFLOW_USER: psutil.Process().username()}
    if commit:
        branch = _git("rev-parse", "--abbrev-ref", "HEAD")
        changed = "true" if _is_changed() else "false"
        tags |= {MLFLOW_GIT_COMMIT: commit, MLFLOW_GIT_BRANCH: branch, MLFLOW_GIT_DIRTY: changed}
    return tags


def _is_changed() -> bool:
    """Whether code, parameters or input files differ from the commit; what the run writes itself does not count."""
    others = [f":(top,exclude,glob){path}" for path in (*WRITTEN, *UNREAD)]
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *others))


@contextmanager
def watched(run_id: str, uri: str) -> Iterator[None]:
    """Log the load of processor, memory and GPU to a run, now and then, as `system/...`."""
    monitor = SystemMetricsMonitor(
        run_id, sampling_interval=SECONDS_BETWEEN_SAMPLES, resume_logging=True, tracking_uri=uri
    )
    monitor.monitors = [m for m in monitor.monitors if not isinstance(m, DiskMonitor | NetworkMonitor)]
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _git(*arguments: str) -> str:
    """What git prints; nothing outside a repository."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S607
