"""The open batches of an endpoint, written down before they are submitted."""

import json
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from agentrefine.errors import UserError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    token TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    batch_id TEXT,
    calls TEXT NOT NULL
) WITHOUT ROWID
"""


class OpenBatch(NamedTuple):
    """A batch that has been, or is about to be, submitted.

    Attributes:
        token: made here before it is submitted; stands in the batch's metadata.
        batch_id: the endpoint's id; None until the endpoint has named one.
        calls: journal key to limit (`max_tokens`) of each call in it.
    """

    token: str
    batch_id: str | None
    calls: dict[str, int]


class BatchLedger:
    """The open batches of an endpoint, in the journal's file: none is submitted twice and none is forgotten."""

    def __init__(self, path: Path, endpoint: str) -> None:
        """Open the ledger.

        Args:
            path: of the journal.
            endpoint: its name in the journal.

        Raises:
            UserError: the file cannot be used; so do all methods.
        """
        self._path = path
        self._endpoint = endpoint
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._execute(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def open_batches(self) -> list[OpenBatch]:
        """All that have not been collected."""
        found = self._execute(
            "SELECT token, batch_id, calls FROM batches WHERE endpoint = ? ORDER BY token", self._endpoint
        )
        return [OpenBatch(token, batch_id, json.loads(calls)) for token, batch_id, calls in found]

    def keep(self, batch: OpenBatch) -> None:
        """Write a batch, or what is now known of it."""
        self._execute(
            "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?)",
            batch.token,
            self._endpoint,
            batch.batch_id,
            json.dumps(batch.calls),
        )

    def forget(self, batch: OpenBatch) -> None:
        """A batch is collected, or never came into being."""
        self._execute("DELETE FROM batches WHERE token = ?", batch.token)

    def _execute(self, statement: str, *values: str | None) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise UserError(
                f"{self._path}: the batches cannot be written down ({error}); make room on the disk and the folder "
                "writable, and run the same command again."
            ) from error
