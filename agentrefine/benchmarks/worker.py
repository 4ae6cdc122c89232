"""A simulator in a process of its own: it may hang, crash, print or grow without touching the evaluation.

The parent sends one JSON line per call and reads one JSON line back. `Workers` keeps the processes and lends them to
`RemoteEnvironment`, one episode at a time; the same file, run as a module, is the process. It makes one simulator, of a
class such as `agentrefine.benchmarks.simulators.TextSimulator`, which plays one episode after the other.
"""

import contextlib
import importlib
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, SimulatorError, StepResult, UnlistedActionsError

MAX_ANSWER = 4 * 2**20
"""The most bytes of one answer; a longer one is junk."""

GIB = 2**30
REPORTED = {error.__name__: error for error in (NoSolutionError, UnlistedActionsError)}
"""What a simulator may raise without an end of its process, by name."""


class Opening(NamedTuple):
    """How an episode begins: what `Environment` shows the agent before its first turn."""

    actions: dict[str, str]
    goal: str
    observation: str


class Limits(NamedTuple):
    """What a worker may take.

    Attributes:
        start: seconds to begin an episode, the start of the process included.
        step: seconds of one action.
        gold: seconds to find a solution.
        episodes: episodes before the process is replaced by a fresh one, which bounds what it leaks.
        memory: bytes of address space, or None where the simulator bounds its memory itself (a JVM).
        variables: environment variables that are set for the process.
    """

    start: float = 120
    step: float = 30
    gold: float = 120
    episodes: int = 100
    memory: int | None = None
    variables: Mapping[str, str] = MappingProxyType({})


class Worker:
    """One process with one simulator, alone in its process group.

    Attributes:
        episodes: how many episodes it has begun.
    """

    def __init__(self, simulator: str, limits: Limits) -> None:
        """Start the process of a simulator, given as `module:Class`."""
        self.episodes = 0
        module = simulator.rpartition(":")[0].removesuffix(".benchmark")
        self._name = module.rpartition(".")[2]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the worker
        self._socket, other_end = socket.socketpair()
        self._unread = b""
        # The worker finds its modules where its parent does.
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **limits.variables}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, simulator, str(limits.memory or 0), str(other_end.fileno())],
            # What a simulator prints or reads must not be taken for a call or an answer.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=variables,
            start_new_session=True,
            pass_fds=[other_end.fileno()],
        )
        other_end.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def call(self, method: str, seconds: float, **arguments: object) -> Any:  # noqa: ANN401  JSON
        """The answer to one call. A worker that did not answer in order is killed.

        Raises:
            SimulatorError: the process died, took longer than `seconds`, or answered junk.
            NoSolutionError: the simulator was asked for a solution and has none.
            UnlistedActionsError: it was asked for the possible actions and does not list them.
        """
        try:
            line = json.dumps({"method": method, "arguments": arguments}).encode() + b"\n"
            answer = json.loads(self._exchange(line, time.monotonic() + seconds))
            result, raised = answer["result"], answer["raised"]
        except TimeoutError as error:
            self.kill()
            message = f"{self._name} did not answer {method} within {seconds:g} s and was stopped"
            raise SimulatorError(message) from error
        except (ConnectionError, EOFError) as error:
            raise SimulatorError(f"{self._name} died in {method}: {self._cause_of_death()}") from error
        except (ValueError, KeyError, TypeError) as error:
            self.kill()
            raise SimulatorError(f"{self._name} answered {method} with junk and was stopped") from error
        except BaseException:  # interrupted: its answer would be taken for that of the next call
            self.kill()
            raise
        if raised is not None:
            raise REPORTED[raised](result)
        return result

    def peak_memory(self) -> int:
        """The most resident memory in bytes that the process and those that it started have held, each at its own time.

        0 where the system does not say (without Linux's `/proc`).
        """
        peak = 0
        for process in group(self._process.pid):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
                peak += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
        return peak

    def stop(self) -> None:
        """End the process and all that it started, while another thread waits for an answer: that one cleans up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process and all that it started."""
        self.stop()
        self._process.wait()
        self._socket.close()
        self._errors.close()

    def _exchange(self, line: bytes, deadline: float) -> bytes:
        # A thread of the worker reads all the time, so that writing does not wait for the simulator.
        self._socket.settimeout(None)
        self._socket.sendall(line)
        while b"\n" not in self._unread:
            if len(self._unread) > MAX_ANSWER:
                raise ValueError("the answer is too long")
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            received = self._socket.recv(2**16)
            if not received:
                raise EOFError
            self._unread += received
        answer, _, self._unread = self._unread.partition(b"\n")
        return answer

    def _cause_of_death(self) -> str:
        """The signal that killed the process, else the last line of its standard error, else its status."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 2000))
        lines = self._errors.read().decode(errors="replace").split("\n")
        last_line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self.kill()
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return last_line[:500] or f"exit status {status}"


class Workers:
    """The workers of one benchmark. Idle ones are kept for the next episode, and ended with the benchmark."""

    def __init__(self, simulator: str, limits: Limits) -> None:
        """Workers of a simulator, given as `module:Class`; none is started yet."""
        self.limits = limits
        self._simulator = simulator
        self._idle: list[Worker] = []
        self.close = weakref.finalize(self, _kill_all, self._idle)

    def take(self) -> Worker:
        """A worker for one episode, idle or fresh."""
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
            worker.kill()
        return Worker(self._simulator, self.limits)

    def give_back(self, worker: Worker) -> None:
        """Keep a worker for the next episode, or end it when it is dead, worn out, or there is no next one."""
        if worker.alive and worker.episodes < self.limits.episodes and self.close.alive:
            self._idle.append(worker)
        else:
            worker.kill()

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The simulator's solution of an episode.

        Raises:
            NoSolutionError: it has none, or fails in the search for one.
        """
        worker = self.take()
        worker.episodes += 1
        try:
            actions: list[str] = worker.call("gold", self.limits.gold, episode=episode.model_dump())
        except SimulatorError as error:
            raise NoSolutionError(str(error)) from error
        finally:
            self.give_back(worker)
        return actions

    def peak_memory(self) -> int:
        """The most memory in bytes that an idle worker has held so far, with the processes that it started."""
        return max((worker.peak_memory() for worker in self._idle), default=0)


class RemoteEnvironment:
    """One episode, played in a worker; `actions` and `goal` are empty until `reset`."""

    def __init__(self, workers: Workers, episode: EpisodeSpec) -> None:
        self.actions: dict[str, str] = {}
        self.goal = ""
        self._workers = workers
        self._episode = episode
        self._worker: Worker | None = None
        self._at_work = False
        self._closed = False
        self._lock = threading.Lock()

    def reset(self) -> str:
        """Start the episode, in the same worker if it is running, and return the first observation.

        Raises:
            SimulatorError: the worker died or hung, or the episode was closed.
        """
        if self._worker is None:
            worker = self._workers.take()
            with self._lock:
                self._worker = worker
                if self._closed:  # while it was being started
                    self._worker = None
                    self._workers.give_back(worker)
                    raise SimulatorError("the episode was closed")
        self._worker.episodes += 1
        opening = self._call("start", self._workers.limits.start, episode=self._episode.model_dump())
        self.actions, self.goal, observation = Opening(*opening)
        return observation

    def step(self, action: str) -> StepResult:
        """Take one action.

        Raises:
            SimulatorError: the worker died or hung, now or before; it is gone, and the episode with it.
        """
        return StepResult(*self._call("step", self._workers.limits.step, action=action))

    def possible(self) -> list[str]:
        """Actions that are possible now.

        Raises:
            SimulatorError: as for `step`.
            UnlistedActionsError: the simulator does not list them.
        """
        actions: list[str] = self._call("possible", self._workers.limits.step)
        return actions

    def close(self) -> None:
        """Give the worker back; one that another thread waits for is stopped."""
        with self._lock:
            worker, self._worker = self._worker, None
            self._closed = True
            if worker is not None and self._at_work:
                worker.stop()
            elif worker is not None:
                self._workers.give_back(worker)

    def _call(self, method: str, seconds: float, **arguments: object) -> Any:  # noqa: ANN401  JSON
        with self._lock:
            worker = self._worker
            if worker is None or not worker.alive:
                raise SimulatorError("the episode is not running")
            self._at_work = True
        try:
            return worker.call(method, seconds, **arguments)
        finally:
            with self._lock:
                self._at_work = False
                if self._closed:  # and stopped meanwhile
                    worker.kill()


def group(leader: int) -> list[int]:
    """The processes of a process group, by Linux's `/proc`."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(int(folder.name)) == leader:
                members.append(int(folder.name))
    return members


def _kill_all(workers: list[Worker]) -> None:
    while workers:
        workers.pop().kill()


def _serve(target: str, memory: int, descriptor: int) -> None:
    """The process: answer calls until the parent is gone."""
    os.set_inheritable(descriptor, False)  # what the simulator starts must not keep it open
    connection = socket.socket(fileno=descriptor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection.makefile("rb"), calls), daemon=True).start()
    module, _, name = target.partition(":")
    simulator = getattr(importlib.import_module(module), name)()
    while True:
        call = json.loads(calls.get())
        arguments = call["arguments"]
        if "episode" in arguments:
            arguments["episode"] = EpisodeSpec.model_validate(arguments["episode"])
        try:
            answer = {"result": getattr(simulator, call["method"])(**arguments), "raised": None}
        except (NoSolutionError, UnlistedActionsError) as error:
            answer = {"result": str(error), "raised": type(error).__name__}
        connection.sendall(json.dumps(answer).encode() + b"\n")


def _listen(requests: IO[bytes], calls: "queue.SimpleQueue[bytes]") -> None:
    """Pass calls on; when the parent is gone, end the process group, whatever the simulator does at that moment."""
    for line in requests:
        calls.put(line)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
