"""Stages that run side by side, each a process of its own, with their output in one terminal."""

import codecs
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Never

from tqdm import tqdm

from agentrefine.errors import UserError

STOP_SECONDS = 30
"""Seconds for a stage to write its checkpoint's last bytes and report its end, before it is killed."""
READ_BYTES = 65_536
SECONDS_BETWEEN_BARS = 30.0
"""Where nobody watches, a progress bar is a line now and then."""
POLL_SECONDS = 0.5
BAR = re.compile(r"^.*\d%\|.*\| [^\[]*\[[^\]]*\]")
"""A progress bar that a line of the log was printed behind."""
WITH_PARENT = "AGENTREFINE_END_WITH"
"""Names the process that has started this one, and that it ends with (`end_with_parent`)."""


def run_side_by_side(commands: Mapping[str, list[str]], at_once: int) -> Generator[str]:
    """Run the commands of several stages, and give the name of each that has succeeded as soon as it ends.

    What they print appears as it comes; their progress bars stand below one another. `at_once` of them run at the same
    time.

    Raises:
        UserError: a stage failed, as its own output says; the others were stopped before.
    """
    waiting = dict(commands)
    running: dict[str, subprocess.Popen[bytes]] = {}
    with selectors.DefaultSelector() as selector, ExitStack() as outputs:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    name = next(iter(waiting))
                    process = running[name] = _start(waiting.pop(name))
                    assert process.stdout is not None
                    output = _Output(process.stdout, place=len(commands) - len(waiting) - 1)
                    outputs.callback(output.close)
                    selector.register(process.stdout, selectors.EVENT_READ, output)
                _pass_on(selector)
                for name, process in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        _pass_on(selector)
                        if process.returncode:
                            sentence = f"{name}: failed with status {process.returncode}; see above."
                            raise UserError("stage_failed", sentence, stage=name, status=process.returncode)
                        yield name
        finally:
            _stop(list(running.values()), selector)


def run_to_its_end(command: list[str], folder: Path | None = None, *, ends_with_us: bool = False) -> int:
    """Run a command in this terminal and return its status; an interruption of this process is passed on to it.

    The command then has `STOP_SECONDS` to end as by Ctrl-C, so that nothing it has paid for is lost. With
    `ends_with_us` it is a command of ours that also ends when this process is killed (`end_with_parent`).
    """
    own = {WITH_PARENT: str(os.getpid())} if ends_with_us else {}
    # A session of its own, so that Ctrl-C reaches this process alone, which passes it on once.
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **own}, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def end_with_parent() -> None:
    """Let this process end as by Ctrl-C when what has started it asks for it, or is gone.

    That is the pipeline of a stage, or the worker of `agentrefine serve` that has started a deployment's run. In any
    other process nothing is done: a worker that a user has started decides itself what becomes of its runs.
    """
    parent = os.environ.pop(WITH_PARENT, None)
    if parent is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script runs in the background
        threading.Thread(target=_interrupt_without, args=(int(parent),), daemon=True).start()


def _interrupt_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    """A session of its own, so that Ctrl-C reaches the pipeline alone, which then stops its stages."""
    return subprocess.Popen(
        command,
        env={**os.environ, WITH_PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _stop(running: "list[subprocess.Popen[bytes]]", selector: selectors.BaseSelector) -> None:
    """Interrupt what still runs and wait for it."""
    for process in running:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        _pass_on(selector)
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _pass_on(selector: selectors.BaseSelector) -> None:
    """Print what the processes have printed since, or print within a moment."""
    if not selector.get_map():
        time.sleep(POLL_SECONDS)
    for key, _ in selector.select(POLL_SECONDS):
        output: _Output = key.data
        if not output.pass_on():
            selector.unregister(key.fileobj)


class _Output:
    """Passes on what a process prints: lines as they are, and of a progress bar the latest state."""

    def __init__(self, pipe: IO[bytes], place: int) -> None:
        self._pipe = pipe
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._shown = time.monotonic()
        self._bar: tqdm[Never] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(bar_format="{desc}", position=place, dynamic_ncols=True, leave=False)

    def pass_on(self) -> bool:
        """Read what is there; False when that was all."""
        read = os.read(self._pipe.fileno(), READ_BYTES)
        *pieces, self._rest = re.split(
            r"(?<=\n)|(?<=\r)(?!\n)", self._rest + self._decoder.decode(read, final=not read)
        )
        if not read:
            pieces.append(self._rest)
            self._rest = ""
        for piece in pieces:
            text = piece.strip("\r\n")
            if piece.endswith("\n") or not read:
                if line := BAR.sub("", text).strip():
                    tqdm.write(line, file=sys.stderr)
            elif text and self._bar is not None:
                self._bar.set_description_str(text)
            elif text and time.monotonic() - self._shown >= SECONDS_BETWEEN_BARS:
                self._shown = time.monotonic()
                tqdm.write(text, file=sys.stderr)
        return bool(read)

    def close(self) -> None:
        if line := BAR.sub("", self._rest).strip():  # the last words of a process whose pipe another one holds open
            tqdm.write(line, file=sys.stderr)
        if self._bar is not None:
            self._bar.close()
        self._pipe.close()
