"""Paid answers: each is in the journal, on disk, before it is used, and a rerun pays nothing for it again."""

import asyncio
import hashlib
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agentrefine.errors import UserError
from agentrefine.llm.completion import ASKED_AGAIN, TRUNCATED, Answer, ChatMessage, Request, Usage, field_of_thoughts
from agentrefine.llm.reply import complete_usage
from agentrefine.llm.spending import Price, Spending
from agentrefine.llm.throttle import SharedNumbers

logger = logging.getLogger(__name__)

PAID, REPLAYED = "paid", "replayed"
"""The shared numbers of calls that went to an endpoint, and of calls that the journal answered."""
TIMED, SECONDS = "timed", "seconds"
"""The shared numbers of calls whose time is known, and of the seconds that they took together."""
CALL_NUMBERS = (PAID, REPLAYED, TIMED, SECONDS)
"""The names of all shared numbers of calls."""

_WORST_BYTES_PER_TOKEN = 2
"""Bytes of a prompt for each token, for the most that it may cost; texts have three to five."""

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
    seconds REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (key, max_tokens)
) WITHOUT ROWID
"""
_VERSION = 4
"""The version of the file's form, which SQLite keeps in the file as `user_version`."""
_ADDED = {
    3: "ALTER TABLE answers ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0",
    4: "ALTER TABLE answers ADD COLUMN seconds REAL NOT NULL DEFAULT 0",
}
"""What each version has added to the one before; older ones are not known."""
_SELECT = "SELECT * FROM answers WHERE key = ? ORDER BY max_tokens"
_INSERT = """
INSERT OR IGNORE INTO answers VALUES (:key, :max_tokens, :text, :prompt_tokens, :completion_tokens, :cached_tokens,
    :batch, :finish_reason, :estimated, :seconds)
"""
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


class Journal(AbstractContextManager["Journal", None]):
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
            self._reader, self._writer = self._connect(), self._connect()
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._create()
        except (OSError, sqlite3.Error) as error:
            raise self._cannot(error) from error
        self._pending: list[tuple[dict[str, Any], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def _create(self) -> None:
        with self._writer:  # a transaction, as another process may be about to do the same
            self._writer.execute("BEGIN IMMEDIATE")
            tables = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if tables and min(_ADDED) - 1 <= version < _VERSION:
                for added in range(version + 1, _VERSION + 1):
                    self._writer.execute(_ADDED[added])
            elif tables and version != _VERSION:
                sentence = (
                    f"{self.path}: a journal of version {version}, and this program keeps version {_VERSION}; move the "
                    "file away to begin a new one, or use the program that wrote it."
                )
                raise UserError("journal_version", sentence, file=self.path, found=version, expected=_VERSION)
            self._writer.execute(_SCHEMA)
            self._writer.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        """Close the file, after `flush`."""
        self._reader.close()
        self._writer.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, key: str, max_tokens: int) -> Answer | None:
        """The answer that could be given within `max_tokens`, if any. Raises UserError if the file cannot be read."""
        try:
            rows = self._reader.execute(_SELECT, (key,)).fetchall()
        except sqlite3.Error as error:
            raise self._cannot(error) from error
        for row in rows:
            usage = Usage.model_validate({name: row[name] for name in Usage.model_fields})
            found = answer_id(key, row["max_tokens"])
            answer = Answer(row["text"], usage, row["finish_reason"], id=found, seconds=row["seconds"])
            if _fits(answer, row["max_tokens"], max_tokens):
                return answer
        return None

    async def keep(self, key: str, max_tokens: int, answer: Answer) -> Answer:
        """Write an answer and return it as the journal holds it: another process's, when that was faster.

        Raises:
            UserError: the file cannot be written; the disk may be full.
        """
        row = {"key": key, "max_tokens": max_tokens, "text": answer.text, "finish_reason": answer.finish_reason}
        row |= answer.usage.model_dump() | {"seconds": answer.seconds}
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((row, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_pending())
        await written
        kept = self.find(key, max_tokens)
        if kept is None:
            sentence = f"{self.path}: an answer that was just written is gone; is another program changing it?"
            raise UserError("answer_gone", sentence, file=self.path)
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

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self._writer:  # a transaction
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany(_INSERT, rows)

    def _cannot(self, error: Exception) -> UserError:
        code, problem = "journal_unusable", f"the journal of answers cannot be used ({error})"
        remedy = "make its folder writable, or move the file away to begin a new one"
        if "full" in str(error):
            code, problem = "disk_full", "the disk is full"
            remedy = "free some space and run the same command again"
        return UserError(code, f"{self.path}: {problem}; {remedy}.", file=self.path)


def _fits(answer: Answer, asked: int, max_tokens: int) -> bool:
    """Whether the endpoint could have given an answer, made under the limit `asked`, under the limit `max_tokens`."""
    tokens = 0 if answer.usage.estimated else answer.usage.completion_tokens  # some endpoints count nothing
    was_cut = answer.finish_reason == TRUNCATED or tokens == asked  # some endpoints say `stop` of a cut answer
    return asked == max_tokens or (not was_cut and max_tokens >= (tokens or asked))


def answer_id(key: str, max_tokens: int) -> str:
    """Identifies an answer by its question and the limit that it was made under."""
    return hashlib.sha256(f"{key} {max_tokens}".encode()).hexdigest()[:16]


@dataclass
class PaidCalls:
    """Calls to one model whose answers are on disk before anyone sees them, and whose cost is reserved before they go.

    Tokens that the endpoint does not count are estimated, for fresh answers and for those of the journal alike.

    Attributes:
        model: its name, for warnings.
        journal: where answers are kept; None keeps none.
        numbers: made with `CALL_NUMBERS` among its names.
        spending: the budget.
        price: of the model; None where it is not known, so that nothing is counted.
    """

    model: str
    journal: Journal | None
    numbers: SharedNumbers
    spending: Spending
    price: Price | None
    _has_warned: bool = False

    def find(self, key: str, request: Request) -> Answer | None:
        """The journal's answer to a call; None when there is none yet. What it cost counts towards the budget."""
        kept = self.journal.find(key, request.max_tokens) if self.journal else None
        if kept is None:
            return None
        self._add(REPLAYED, kept)
        kept = complete_usage(kept, request)
        self.count(kept.usage)
        return kept

    async def ask(self, key: str, request: Request, send: Callable[[AsyncExitStack], Awaitable[Answer]]) -> Answer:
        """A new answer.

        Args:
            key: of the call in the journal.
            request: the call.
            send: sends it; the call stays in flight until the stack is closed, which is when the answer is on disk.

        Raises:
            UserError: the endpoint refuses for good, the budget is spent, or the journal cannot be written.
        """
        self.numbers.check_stopped()
        reserved = self._cost(_worst(request))
        await self.spending.reserve(reserved)
        cost = 0.0
        try:
            async with AsyncExitStack() as in_flight:
                answer = complete_usage(await send(in_flight), request)
                if answer.usage.estimated and not self._has_warned:
                    self._has_warned = True
                    logger.warning(
                        "%s: the endpoint does not count all tokens (`usage`); they, and what they cost, are estimated "
                        "from the length of the texts",
                        self.model,
                    )
                cost = self._cost(answer.usage)
                is_paid = answer.finish_reason not in ASKED_AGAIN
                if is_paid:
                    self._add(PAID, answer)
                if self.journal and is_paid and not field_of_thoughts(answer.finish_reason):
                    return await self.journal.keep(key, request.max_tokens, answer)
                return answer._replace(id=answer_id(key, request.max_tokens))
        finally:
            self.spending.settle(reserved, cost)

    def _add(self, kind: str, answer: Answer) -> None:
        with self.numbers.locked() as numbers:
            numbers[kind] += 1
            numbers[TIMED] += answer.seconds > 0
            numbers[SECONDS] += answer.seconds

    def count(self, usage: Usage) -> None:
        """Count what was paid without a reservation: now for a probe, or earlier for an answer of the journal."""
        self.spending.settle(0.0, self._cost(usage))

    def _cost(self, usage: Usage) -> float:
        return self.price.cost(usage) if self.price else 0.0


def _worst(request: Request) -> Usage:
    """More tokens than a call takes, unless its prompt is of characters that tokenizers hardly know."""
    size = sum(len(message["content"].encode()) for message in request.messages)
    return Usage(prompt_tokens=size // _WORST_BYTES_PER_TOKEN, completion_tokens=request.max_tokens)
