"""The request log: one JSON line for each chat request, an independent witness of what a client has paid for."""

import os
import time
from pathlib import Path

import orjson

from agentrefine.errors import UserError


class RequestLog:
    """Appends to a file; every line is in the file before its answer is sent, even when the server is killed then."""

    def __init__(self, path: Path | None) -> None:
        """Open the log.

        Args:
            path: the file, which may hold lines already; None: nothing is logged.

        Raises:
            UserError: the file cannot be opened for writing.
        """
        self._file: int | None = None
        if path is None:
            return
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --log.") from error

    def write(self, *, key: str, seed: int | None, attempt: int, outcome: str, batch: str | None) -> None:
        """Append one request.

        Args:
            key: identifies what the answer is drawn from; the completion's id is `chatcmpl-` and this key.
            seed: the request's own.
            attempt: how often the same request had come before.
            outcome: `answered`, or the name of the fault on the wire.
            batch: the batch whose line this is.
        """
        if self._file is None:
            return
        record = {"time": time.time(), "key": key, "seed": seed, "attempt": attempt, "outcome": outcome, "batch": batch}
        # One unbuffered write: lines of other processes cannot stand in the middle of this one.
        os.write(self._file, orjson.dumps(record) + b"\n")
