"""Work in processes of their own that fork from one that has imported the libraries and done nothing else.

A way to tune that runs out of memory, hangs or leaves the GPU in a bad state ends with its process. An import takes
ten seconds, a fork none. No library may ask for the GPU while it is imported: a process that forks afterwards could not
use it (`on_gpu` in `perf/gpu_checks.py` finds that out first).
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil

PROCESSES = multiprocessing.get_context("forkserver")

SECONDS_BETWEEN_SAMPLES = 0.5
"""Between two looks at a process's memory."""

SHOWN = 3000
"""Characters of a failed process's output that its error shows, the last ones."""


class ChildError(RuntimeError):
    """A process failed; holds the end of its output."""


class OverdueError(RuntimeError):
    """A process was not done by its deadline, and was ended."""


def preload(*modules: str) -> None:
    """Begin to import modules, in the process that the others fork from; returns at once."""
    PROCESSES.set_forkserver_preload(list(modules))
    forkserver.ensure_running()


def run(target: Callable[..., None], *arguments: Any, log: Path, deadline: float | None = None) -> int:  # noqa: ANN401
    """Call a function in a process of its own, which writes all that it prints to `log`.

    Args:
        target: a module's own function.
        arguments: of it.
        log: replaced.
        deadline: by `time.monotonic`; None: it takes as long as it takes.

    Returns:
        The most memory that the process and those that it started held together, in bytes of their resident sets.

    Raises:
        ChildError: it failed.
        OverdueError: it was not done by the deadline.
    """
    child = Child(target, *arguments, log=log)
    return child.wait(deadline)


class Child:
    """A process that calls a function; several can run side by side."""

    def __init__(self, target: Callable[..., None], *arguments: Any, log: Path) -> None:  # noqa: ANN401
        """Start it; the arguments are those of `run`."""
        self._log = log
        self._process = PROCESSES.Process(target=_logged, args=(log, target, arguments), name=target.__name__)
        self._process.start()

    def wait(self, deadline: float | None = None) -> int:
        """Return its peak memory once it has ended; the errors are those of `run`."""
        memory = 0
        try:
            while self._process.is_alive():
                memory = max(memory, _resident(self._process.pid))
                left = SECONDS_BETWEEN_SAMPLES if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise OverdueError(f"{self._process.name} was not done by its deadline")
                self._process.join(min(SECONDS_BETWEEN_SAMPLES, left))
        finally:
            self.end()
        if self._process.exitcode:
            printed = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
            raise ChildError(f"exit status {self._process.exitcode}: {printed[-SHOWN:]}")
        return memory

    def end(self) -> None:
        """Kill it, with all that it started, if it still runs."""
        if not self._process.is_alive():
            return
        started = psutil.Process(self._process.pid)
        for process in [*started.children(recursive=True), started]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.join()


def _logged(log: Path, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    with log.open("w", encoding="utf-8") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    target(*arguments)


def _resident(pid: int | None) -> int:
    """Bytes of memory of a process and of all that it has started; those that have just ended are left out."""
    try:
        process = psutil.Process(pid)
        return sum(member.memory_info().rss for member in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0
