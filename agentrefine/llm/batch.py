"""The Batch API of an endpoint: calls are gathered into a file and answered within a day, mostly at half the price."""

import asyncio
import json
import logging
import random
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import openai
from openai import AsyncOpenAI
from openai.types import Batch

from agentrefine.errors import UserError
from agentrefine.llm.completion import Answer, Request
from agentrefine.llm.endpoint import Endpoint
from agentrefine.llm.journal import Journal
from agentrefine.llm.reply import CallError, read_refusal, read_reply

logger = logging.getLogger(__name__)

MAX_BYTES = 90_000_000
"""Bytes of one batch; OpenAI takes 200 MB."""
MAX_UNANSWERED = 20
"""Calls in a batch without any answer that are asked one by one; more have a common cause."""
GATHER_SECONDS = 1.0
"""Seconds without a further call after which a batch goes out."""
_FIRST_POLL_SECONDS = 1.0
_MAX_POLL_SECONDS = 60.0
_RETRIES = 5
_MAX_BACKOFF_SECONDS = 30.0
_ENDED = ("completed", "failed", "expired", "cancelled")
_METADATA_KEY = "agentrefine"
"""The metadata key by which a batch is found again whose id was not yet kept when the program died."""
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
        token: drawn here before it is submitted, for the batch's metadata.
        batch_id: by the endpoint; None until it has named one.
        calls: journal key to limit (`max_tokens`) of each call in it.
    """

    token: str
    batch_id: str | None
    calls: dict[str, int]


class BatchLedger:
    """The open batches of an endpoint, in the journal's file: none is submitted twice and none is forgotten."""

    def __init__(self, path: Path, endpoint: str) -> None:
        """Open the journal's file for one endpoint's batches. Raises UserError if it is unusable; so do all methods."""
        self._path = path
        self._endpoint = endpoint
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._execute(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def open_batches(self) -> list[OpenBatch]:
        """All that have not been collected."""
        select = "SELECT token, batch_id, calls FROM batches WHERE endpoint = ? ORDER BY token"
        found = self._execute(select, self._endpoint)
        return [OpenBatch(token, batch_id, json.loads(calls)) for token, batch_id, calls in found]

    def keep(self, batch: OpenBatch) -> None:
        """Write a batch, or what is now known of it."""
        row = (batch.token, self._endpoint, batch.batch_id, json.dumps(batch.calls))
        self._execute("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?)", *row)

    def forget(self, batch: OpenBatch) -> None:
        """Delete a batch that is collected, or never came into being."""
        self._execute("DELETE FROM batches WHERE token = ?", batch.token)

    def _execute(self, statement: str, *values: str | None) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            message = (
                f"{self._path}: the batches cannot be written down ({error}); make room on the disk and the folder "
                "writable, and run the same command again."
            )
            raise UserError("not_writable", message, file=self._path) from error


class BatchTransport:
    """Sends calls by the Batch API. See `Transport`.

    All calls that wait at the same time go into one batch (or a few, by size); the next is made when these are
    answered. Each batch is written down before it is submitted, and its answers are journaled as soon as it ends, so
    after a crash the same command resumes it. A call that failed inside a batch, or that a batch did not come to within
    its day, is asked call by call.
    """

    def __init__(self, endpoint: Endpoint, journal: Journal, name: str, max_calls: int) -> None:
        """Find the open batches of an earlier run.

        Args:
            endpoint: whose Batch API it is, and who answers what failed there.
            journal: where the answers and the batches are kept.
            name: of the endpoint, the model and the account, among others of this journal.
            max_calls: of one batch.
        """
        self._max_calls = max_calls
        self._endpoint = endpoint
        self._sleep = endpoint.throttle.numbers.sleep
        self._journal = journal
        self._ledger = BatchLedger(journal.path, name)
        self._open = self._ledger.open_batches()
        self._waiting: dict[str, tuple[Request, asyncio.Future[Answer | None]]] = {}
        self._added = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Leave the open batches to the next run."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
        self._ledger.close()
        await self._endpoint.close()

    async def ask(self, key: str, request: Request, held: AsyncExitStack | None = None) -> Answer:
        """The endpoint's answer, when its batch has ended. See `Transport.ask`."""
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (request, answer)
        self._added.set()
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._serve())
            self._work.add_done_callback(self._pass_error_on)
        try:
            return await answer or await self._endpoint.ask(key, request, held)
        finally:
            self._waiting.pop(key, None)

    def _pass_error_on(self, work: asyncio.Task[None]) -> None:
        """Raise what went wrong where a call waits."""
        error = None if work.cancelled() else work.exception()
        for _, answer in self._waiting.values():
            if error is not None and not answer.done():
                answer.set_exception(error)

    async def _serve(self) -> None:
        """Submit and collect batches as long as calls wait."""
        client = self._endpoint.client.with_options(max_retries=_RETRIES)
        try:
            while self._waiting:
                for batch in list(self._open):
                    await self._collect(client, batch)
                await self._gather()
                for calls in self._portions():
                    await self._submit(client, calls)
        except openai.OpenAIError as error:
            raise self._endpoint.to_user_error(error) from error

    async def _gather(self) -> None:
        """Wait until no more calls come."""
        while self._added.is_set():
            self._added.clear()
            await self._sleep(GATHER_SECONDS)

    def _portions(self) -> Iterator[dict[str, Request]]:
        portion: dict[str, Request] = {}
        size = 0
        for key, (request, _) in list(self._waiting.items()):
            kept = self._journal.find(key, request.max_tokens)  # collected since the call was added
            if kept:
                self._hand_over(key, kept)
                continue
            length = len(self._line(key, request))
            if portion and (len(portion) == self._max_calls or size + length > MAX_BYTES):
                yield portion
                portion, size = {}, 0
            portion[key] = request
            size += length
        if portion:
            yield portion

    def _line(self, key: str, request: Request) -> bytes:
        """A call as a line of a batch's input file."""
        body = self._endpoint.parameters.body(request)
        call = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(call).encode() + b"\n"

    async def _submit(self, client: AsyncOpenAI, calls: dict[str, Request]) -> None:
        batch = OpenBatch(secrets.token_hex(16), None, {key: call.max_tokens for key, call in calls.items()})
        self._ledger.keep(batch)
        content = b"".join(self._line(key, request) for key, request in calls.items())
        file = await client.files.create(file=(f"{batch.token}.jsonl", content), purpose="batch")
        batch = batch._replace(batch_id=await self._create(client, file.id, batch.token))
        self._ledger.keep(batch)
        self._open.append(batch)
        logger.warning(
            "batch %s: %d calls submitted, which may take a day; the program may be stopped and run again meanwhile",
            batch.batch_id,
            len(calls),
        )

    async def _create(self, client: AsyncOpenAI, file_id: str, token: str) -> str:
        """Make a batch and return its id; where the reply was lost, look for it before it is made again."""
        failures = 0
        while True:
            try:
                made = await client.with_options(max_retries=0).batches.create(
                    input_file_id=file_id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={_METADATA_KEY: token},
                )
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError):
                failures += 1
                if failures > _RETRIES:
                    raise
            else:
                return made.id
            await self._sleep(min(2.0**failures, _MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1.0))
            if found := await _find_by_token(client, token):
                return found

    async def _collect(self, client: AsyncOpenAI, batch: OpenBatch) -> None:
        """Wait for a batch and keep its answers; calls without one are handed back."""
        ended = await self._ended(client, batch)
        answered = 0
        learned: set[str] = set()
        for file in filter(None, (ended.output_file_id, ended.error_file_id) if ended else ()):
            kept, refused = await self._take_results(batch, (await client.files.content(file)).content)
            answered += kept
            learned |= refused
        self._ledger.forget(batch)
        self._open.remove(batch)
        if ended is None:
            return
        if ended.status == "failed":
            problems = ended.errors.data if ended.errors and ended.errors.data else []
            reasons = "; ".join(str(problem.message) for problem in problems[:3]) or "it does not say why"
            raise UserError(
                "batch_refused",
                f"teacher.transport: the endpoint refuses batch {ended.id} ({reasons}); correct it, or set it to chat.",
                key="teacher.transport",
                batch=ended.id,
            )
        if ended.status == "completed" and not (answered or learned) and len(batch.calls) >= MAX_UNANSWERED:
            message = (
                f"teacher.transport: none of the {len(batch.calls)} calls of batch {ended.id} was answered, so they "
                f"are not asked one by one at the full price; read its error file ({ended.error_file_id}), correct the "
                "teacher section of params.yaml or set the transport to chat."
            )
            raise UserError("batch_unanswered", message, batch=ended.id, calls=len(batch.calls))
        logger.info("batch %s: %s, %d of %d calls answered", ended.id, ended.status, answered, len(batch.calls))
        for key in batch.calls.keys() - learned:
            self._hand_over(key, None)

    async def _ended(self, client: AsyncOpenAI, batch: OpenBatch) -> Batch | None:
        """The batch when it has ended; None when it never came into being or is gone: then its calls are new ones."""
        batch_id = batch.batch_id or await _find_by_token(client, batch.token)
        pause = _FIRST_POLL_SECONDS
        while batch_id is not None:
            try:
                state = await client.batches.retrieve(batch_id)
            except openai.NotFoundError:
                logger.warning("batch %s: the endpoint no longer knows it; its calls are asked again", batch_id)
                return None
            if state.status in _ENDED:
                return state
            await self._sleep(pause)
            pause = min(pause * 1.5, _MAX_POLL_SECONDS)
        return None

    async def _take_results(self, batch: OpenBatch, content: bytes) -> tuple[int, set[str]]:
        """Journal the answers in a file of results.

        Returns how many there were, and the calls that were refused for a parameter: they go into the next batch
        without it.
        """
        calls = {key: self._waiting[key][0] for key in batch.calls.keys() & self._waiting.keys()}
        sent = {key: self._endpoint.parameters.body(call) for key, call in calls.items()}
        answers: list[asyncio.Task[None]] = []
        learned = set()
        for line in content.splitlines():
            key, result = _result(line)
            if isinstance(result, Answer) and key in batch.calls:
                answers.append(asyncio.create_task(self._keep(key, batch.calls[key], result)))
                continue
            call = calls.get(key)
            if isinstance(result, CallError) and call and self._endpoint.parameters.learn(result, sent[key], call):
                learned.add(key)
        await asyncio.gather(*answers)
        return len(answers), learned

    async def _keep(self, key: str, max_tokens: int, answer: Answer) -> None:
        self._hand_over(key, await self._journal.keep(key, max_tokens, answer))

    def _hand_over(self, key: str, answer: Answer | None) -> None:
        """Give a call its answer, or None when it is to be asked by itself; it waits no more."""
        _, waiting = self._waiting.pop(key, (None, None))
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)


async def _find_by_token(client: AsyncOpenAI, token: str) -> str | None:
    async for batch in client.batches.list(limit=100):
        if (batch.metadata or {}).get(_METADATA_KEY) == token:
            return batch.id
    return None


def _result(line: bytes) -> tuple[str, Answer | CallError | None]:
    """The key of a line in a batch's output or error file, with its answer, or why there is none."""
    try:
        result = json.loads(line)
        key, response = str(result["custom_id"]), result.get("response")
        if response is None:
            return key, None
        status, body = int(response["status_code"]), json.dumps(response["body"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", None
    if status != 200:
        return key, read_refusal(status, body)
    try:
        return key, read_reply(body, batch=True)
    except CallError as error:
        return key, error
