"""The journal of paid answers: each is on disk before it is used, and a rerun pays nothing for it again."""

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from agentrefine.errors import UserError
from agentrefine.llm.completion import CUT, Answer, ChatMessage, Usage

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT NOT NULL,
    max_tokens INTEGER NOT NULL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    finish_reason TEXT NOT NULL,
    estimated INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (key, max_tokens)
) WITHOUT ROWID
"""
_VERSION = 3
"""The version of the file's form, which SQLite keeps in the file as `user_version`."""
_FROM_VERSION_2 = "ALTER TABLE answers ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0"
_SELECT = """
SELECT max_tokens, text, prompt_tokens, completion_tokens, cached_tokens, batch, finish_reason, estimated
FROM answers WHERE key = ? ORDER BY max_tokens
"""
_INSERT = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_Row = tuple[str, int, str, int, int, int, int, str, int]
_BUSY_SECONDS = 60
_SECONDS_BETWEEN_WRITES = 0.02
"""Seconds for which answers that come in quick succession are gathered; one alone is written at once."""


_PROMPT_VERSIONS = {
    "script": "script_rules 2, script 2, script_retry 2",
    "trajectory": "trajectory 2, continuation 2",
    "reply": "2",
}
"""A part of every key by the kind of question. Prompts had version numbers once; without them in the key, answers that
were paid for then would be paid for again. They never change: a new prompt is another message, so another key."""


class Question(NamedTuple):
    """Everything that can change an answer, apart from the limit on its length.

    Attributes:
        endpoint: who answers: a base URL, or for the simulated teacher its name with the settings of its answers.
        model, messages, temperature: as the endpoint gets them.
        kind, structured_output: what the answer must hold, and how that is asked for.
        sample: as in `Teacher.complete`.
        extra_body: further keys of the request's body.
    """

    endpoint: str
    model: str
    messages: Sequence[ChatMessage]
    temperature: float
    kind: str
    structured_output: str
    sample: int
    extra_body: Mapping[str, Any] = {}

    def key(self) -> str:
        """SHA-256 of the question as canonical JSON."""
        fields = self._asdict() | {"prompt_version": _PROMPT_VERSIONS.get(self.kind, "")}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


class KeptAnswer(NamedTuple):
    """An answer with its id, which is derived from its question and the limit that it was made under."""

    id: str
    answer: Answer


class Journal:
    """A file of answers that several processes may use at once (SQLite, write-ahead log).

    An answer is found again when the endpoint could have given it under the limit that is now asked for: one that
    ended by itself under any limit that it fits into, one that was cut off under the same limit only. API keys are
    never stored.

    Answers that arrive together are written in one transaction, in a thread of its own; each is synced to disk.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises UserError if the file cannot be opened or is not a journal."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._reader = self._connect()
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise self._cannot(error) from error
        self._pending: list[tuple[_Row, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _create(self) -> None:
        self._writer.execute("BEGIN IMMEDIATE")  # another process may be about to do the same
        tables = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if tables and version == 2:
            self._writer.execute(_FROM_VERSION_2)
        elif tables and version != _VERSION:
            self._writer.execute("ROLLBACK")
            raise UserError(
                "journal_version",
                f"{self.path}: a journal of version {version}, and this program keeps version {_VERSION}; move the "
                "file away to begin a new one, or use the program that wrote it.",
                file=self.path,
                found=version,
                expected=_VERSION,
            )
        self._writer.execute(_SCHEMA)
        self._writer.execute(f"PRAGMA user_version = {_VERSION}")
        self._writer.execute("COMMIT")

    def close(self) -> None:
        """Close the file, after `flush`."""
        self._reader.close()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, key: str, max_tokens: int) -> KeptAnswer | None:
        """The answer to a question that the endpoint could give within `max_tokens`; None when there is none yet.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            rows = self._reader.execute(_SELECT, (key,)).fetchall()
        except sqlite3.Error as error:
            raise self._cannot(error) from error
        for asked, text, prompt, completion, cached, batch, finish_reason, estimated in rows:
            if _fits(asked, 0 if estimated else completion, finish_reason, max_tokens):
                counts = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
                usage = Usage(**counts, batch=bool(batch), estimated=bool(estimated))
                return KeptAnswer(answer_id(key, asked), Answer(text, usage, finish_reason))
        return None

    async def keep(self, key: str, max_tokens: int, answer: Answer) -> KeptAnswer:
        """Write an answer and return it as the journal holds it: another process's, when that was faster.

        Raises:
            UserError: the file cannot be written; the disk may be full.
        """
        usage = answer.usage
        counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, int(usage.batch))
        row = (key, max_tokens, answer.text, *counts, answer.finish_reason, int(usage.estimated))
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((row, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_pending())
        await written
        kept = self.find(key, max_tokens)
        if kept is None:
            raise UserError(
                "answer_gone",
                f"{self.path}: an answer that was just written is gone; is another program changing it?",
                file=self.path,
            )
        return kept

    async def flush(self) -> None:
        """Wait until every answer that was handed in is written."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])

    async def _write_pending(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                await asyncio.to_thread(self._write, [row for row, _ in batch])
                problem = None
            except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
                problem = self._cannot(error)
            for written in (written for _, written in batch if not written.done()):
                if problem is None:
                    written.set_result(None)
                else:
                    written.set_exception(problem)
            await asyncio.sleep(_SECONDS_BETWEEN_WRITES)

    def _write(self, rows: list[_Row]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            self._writer.executemany(_INSERT, rows)
            self._writer.execute("COMMIT")
        except (sqlite3.Error, UnicodeEncodeError, OverflowError):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _cannot(self, error: Exception) -> UserError:
        if "full" in str(error):
            return UserError(
                "disk_full",
                f"{self.path}: the disk is full; free some space and run the same command again.",
                file=self.path,
            )
        return UserError(
            "journal_unusable",
            f"{self.path}: the journal of answers cannot be used ({error}); "
            "make its folder writable, or move the file away to begin a new one.",
            file=self.path,
        )


def _fits(asked: int, completion_tokens: int, finish_reason: str, max_tokens: int) -> bool:
    """Whether the endpoint could have given an answer, made under the limit `asked`, under the limit `max_tokens`."""
    was_cut = finish_reason == CUT or completion_tokens == asked  # some endpoints say `stop` of a cut answer
    # Some endpoints count nothing.
    return asked == max_tokens or (not was_cut and max_tokens >= (completion_tokens or asked))


def answer_id(key: str, max_tokens: int) -> str:
    """Identifies an answer by its question and the limit that it was made under."""
    return hashlib.sha256(f"{key} {max_tokens}".encode()).hexdigest()[:16]
