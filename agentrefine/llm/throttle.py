"""When a call may go out: calls in flight, ceilings per minute and pauses, kept together by all processes of a run."""

import asyncio
import fcntl
import mmap
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Self

from agentrefine.errors import UserError

STOPPED = "stopped"
"""The shared number that is not zero once the run is to end: calls in flight are waited for, no other goes out."""
DECREASE = 0.5
"""The share of the calls in flight that is left after a sign of overload."""
SECONDS_BETWEEN_DECREASES = 1.0
"""Seconds: one overload is answered to many calls at once, and is one reason for a decrease."""
BURST_SECONDS = 1.0
"""How many seconds calls may run ahead of an even flow below a ceiling per minute."""
_MINUTE = 60 + BURST_SECONDS
"""The seconds over which a ceiling per minute is spread."""
_MAX_SLEEP_SECONDS = 1.0
_BYTES = 8


class StoppedError(UserError):
    """The run is ending, so no more calls go out."""


class SharedNumbers(AbstractContextManager["SharedNumbers", None]):
    """A file of named float64 numbers, zero at first, that several processes of this machine read and change.

    A change is made under a lock on the file, which the system releases when its holder dies.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Open or create the file. All processes give the same names in the same order."""
        self._place = {name: position for position, name in enumerate(names)}
        size = _BYTES * len(names)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(self._descriptor).st_size < size:
            os.ftruncate(self._descriptor, size)  # filled with zeros, whoever comes first
        self._map = mmap.mmap(self._descriptor, size)
        self._values = memoryview(self._map).cast("d")

    def close(self) -> None:
        """Close the file."""
        self._values.release()
        self._map.close()
        os.close(self._descriptor)

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> float:
        return self._values[self._place[name]]

    def __setitem__(self, name: str, value: float) -> None:
        """Set a number; within `locked` where its new value depends on an old one."""
        self._values[self._place[name]] = value

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Keep other processes from changing any number. Held for microseconds, never across an await."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield self
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def add(self, name: str, amount: float) -> None:
        """Add to a number."""
        with self.locked():
            self[name] += amount

    def check_stopped(self) -> None:
        """Raise `StoppedError` when the run is ending (`STOPPED`)."""
        if self[STOPPED]:
            raise StoppedError("stopped", "The run was stopped; run the same command again: answers so far are kept.")

    async def sleep(self, seconds: float) -> None:
        """Wait; raise `StoppedError` as soon as the run is ending."""
        until = time.monotonic() + seconds
        self.check_stopped()
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _MAX_SLEEP_SECONDS))
            self.check_stopped()


@dataclass(eq=False)
class Throttle:
    """Calls to one endpoint: additive increase, multiplicative decrease (Chiu and Jain 1989), and ceilings per minute.

    The calls in flight begin at their maximum, are halved by each overload (429 or a time-out) and grow by one for
    each round of answers. The ceilings hold by the generic cell rate algorithm: each call books the time that its
    share of the ceiling takes, so that no minute, its burst included, holds more. `Retry-After` pauses all calls. All
    of it is shared through `numbers`; each process has its share of the calls in flight.

    Attributes:
        numbers: what the processes of the run share, made with `throttle_numbers` among its names.
        endpoint: which of the run's endpoints, from 0.
        max_in_flight: of all processes together.
        processes: how many there are.
        requests_per_minute, tokens_per_minute: the ceilings; None for no ceiling.
        in_flight: calls of this process that are out.
    """

    numbers: SharedNumbers
    endpoint: int
    _: KW_ONLY
    max_in_flight: int
    processes: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    in_flight: int = 0

    def __post_init__(self) -> None:
        names = throttle_numbers(self.endpoint)
        self._window, self._decreased_at, self._paused_until, self._next_request, self._next_token = names
        self._seconds_per_request = _MINUTE / self.requests_per_minute if self.requests_per_minute else 0.0
        self._seconds_per_token = _MINUTE / self.tokens_per_minute if self.tokens_per_minute else 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        with self.numbers.locked() as numbers:
            numbers[self._window] = numbers[self._window] or float(self.max_in_flight)

    @property
    def share(self) -> int:
        """How many calls this process may have in flight now."""
        return max(1, int(self.numbers[self._window]) // self.processes)

    @asynccontextmanager
    async def slot(self, tokens: float) -> AsyncIterator[float]:
        """Wait until a call of about so many tokens may go out; it is in flight while the block runs.

        Yields the time at which it goes out, for `overloaded`. Raises StoppedError if the run is ending.
        """
        while self.in_flight >= self.share:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                self._wake()  # a turn that had come already is the next one's
                raise
        self.in_flight += 1
        try:
            await self._book(tokens)
            yield time.monotonic()
        finally:
            self.in_flight -= 1
            self._wake()

    def used(self, tokens: float) -> None:
        """A call took so many tokens more than its slot was booked for, or fewer if negative."""
        if self._seconds_per_token:
            self.numbers.add(self._next_token, tokens * self._seconds_per_token)

    def answered(self) -> None:
        """A call was answered: more may be in flight."""
        with self.numbers.locked() as numbers:
            window = numbers[self._window]
            numbers[self._window] = min(float(self.max_in_flight), window + 1 / window)
        self._wake()

    def overloaded(self, sent: float, retry_after: float = 0.0) -> None:
        """The endpoint could not keep up: fewer calls in flight, and none for `retry_after` seconds.

        Calls that were sent before the last decrease are signs of the overload that it was made for.
        """
        now = time.monotonic()
        with self.numbers.locked() as numbers:
            numbers[self._paused_until] = max(numbers[self._paused_until], now + retry_after)
            decreased_at = numbers[self._decreased_at]
            if sent > decreased_at and now - decreased_at >= SECONDS_BETWEEN_DECREASES:
                numbers[self._decreased_at] = now
                numbers[self._window] = max(1.0, numbers[self._window] * DECREASE)

    async def _book(self, tokens: float) -> None:
        """Book a call below the ceilings and wait until its time has come."""
        with self.numbers.locked() as numbers:
            start = now = time.monotonic()
            shares = {self._next_request: self._seconds_per_request, self._next_token: self._seconds_per_token * tokens}
            for name, seconds in shares.items():
                if seconds:
                    free = max(numbers[name], now - max(0.0, BURST_SECONDS - seconds))
                    numbers[name] = free + seconds
                    start = max(start, free)
        while (now := time.monotonic()) < (start := max(start, self.numbers[self._paused_until])):
            await self.numbers.sleep(min(start - now, _MAX_SLEEP_SECONDS))
        self.numbers.check_stopped()

    def _wake(self) -> None:
        free = self.share - self.in_flight
        while free > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1


def throttle_numbers(endpoint: int) -> list[str]:
    """The names of an endpoint's shared numbers; times are seconds of the machine's monotonic clock."""
    kinds = ("window", "decreased_at", "paused_until", "next_request", "next_token")
    return [f"{kind}_{endpoint}" for kind in kinds]
