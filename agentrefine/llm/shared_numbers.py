"""Numbers that the processes of one run share: what is spent, what is done, when the next call may go out."""

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

_BYTES = 8


class SharedNumbers:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
