"""The processes of one tuning: those that a launcher started, or replicas of this one on the cores of one machine.

A small model leaves the cores of a CPU idle when its matrices are split among threads; a process for each core does so
less, though it waits for the others at every step. Gradients are averaged after each step (torch's
DistributedDataParallel over gloo on the loopback device): equal seeds and equal numbers of processes give equal bytes.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO

import torch
from accelerate.utils import patch_environment
from torch import distributed

from agentrefine.errors import UserError

SHARDING = frozenset({"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"})
"""Variables by which accelerate's launcher asks for a sharded model."""

READY = "ready"
"""The line that a replica writes to standard output when it can train."""


def is_first_process() -> bool:
    """Whether this process writes, logs and shows; torchrun and accelerate number the others from 1."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count(cpu_processes: int) -> int:
    """How many processes tune together: what the environment says, else one on a GPU, else `cpu_processes`."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return 1 if torch.cuda.is_available() else cpu_processes


class Replicas:
    """The other processes; none where one process trains alone. What they print to standard error is in `log`."""

    def __init__(self, processes: "list[subprocess.Popen[str]]", log: IO[str]) -> None:
        self._processes = processes
        self._log = log

    def begin(self, job: str) -> None:
        """Hand out the job, a line of JSON; the others load while this process does."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(f"{job}\n")
                process.stdin.flush()

    def wait(self) -> None:
        """Return when all are ready to train with this process.

        Raises:
            UserError: a replica has ended.
        """
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise self._ended()

    def explain(self, error: RuntimeError) -> Exception:
        """The error to raise for one that training met: the replica's, where the connection to it was lost."""
        lost = "gloo" in str(error).lower() or isinstance(error, distributed.DistError)
        return self._ended() if self._processes and lost else error

    def _ended(self) -> UserError:
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or ["it printed nothing"]
        killed = any(process.returncode is not None and process.returncode < 0 for process in self._processes)
        reason = "it was killed, perhaps because memory ran out" if killed else lines[-1]
        message = (
            f"tuning: one of the processes that tune together has ended ({reason}); set tuning.cpu_processes to 1 "
            "to tune in a single one, or run the stage again."
        )
        return UserError("process_ended", message, killed=killed)


@contextlib.contextmanager
def replicas(module: str, processes: int, threads: int) -> Iterator[Replicas]:
    """Start `processes` - 1 replicas and make this process the first of all, until the context ends.

    Does nothing for one process, and where the environment already names several (torchrun).

    Args:
        module: what a replica runs, by `python -m`; it calls `serve_as_replica`.
        processes: how many tune together.
        threads: that each computes with.
    """
    with tempfile.TemporaryFile("w+") as log:
        if "WORLD_SIZE" in os.environ or processes == 1:
            yield Replicas([], log)
            return
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        started: list[subprocess.Popen[str]] = []
        try:
            for rank in range(1, processes):
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", module],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        env={**os.environ, **_environment(rank, processes, threads, port)},
                    )
                )
            with patch_environment(**_environment(0, processes, threads, port)):
                yield Replicas(started, log)
        except BaseException:
            for process in started:
                process.kill()
            raise
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for process in started:
                _end(process)


def serve_as_replica(work: Callable[[str, Callable[[], None]], object]) -> None:
    """Be a replica: read the job from standard input and do the `work`, which is given what reports readiness."""
    job = sys.stdin.readline()
    if not job:
        return
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    # Standard output is for one word to the process that started this one; what a library prints is for the log.
    parent = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        work(job, lambda: print(READY, file=parent, flush=True))
    distributed.destroy_process_group()


def _end_with_the_first() -> None:
    """End this process when the one that started it ends: that closes the pipe, however it ended."""
    sys.stdin.read()
    os._exit(1)


def _environment(rank: int, processes: int, threads: int, port: int) -> dict[str, str]:
    """What torchrun would set, the threads of a process, and the loopback device for gloo."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    return {
        **({"GLOO_SOCKET_IFNAME": loopback} if loopback else {}),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
    }


def _end(process: "subprocess.Popen[str]") -> None:
    """Wait a moment for a replica that has done its work; end one that has not."""
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
