"""The Batch API: uploads, what is kept of files and batches, and the work on them. Times are Unix seconds."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from itertools import filterfalse
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from openai.types import Batch, BatchError, BatchRequestCounts, FileObject
from openai.types.batch import Errors
from pydantic import BaseModel, Field, ValidationError

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, first_problem, problem_code, problem_key, short_hash
from agentrefine.simulation.answers import uniform_of
from agentrefine.simulation.chat import MODEL, ApiError, Strict

PURPOSE = "batch"
ENDPOINT = "/v1/chat/completions"
MAX_LINES = 50_000
MAX_ERRORS = 100
"""Errors that are reported of one file."""
WINDOW_SECONDS = 24 * 3600
MAX_SLEEP = 0.1
"""Seconds until a batch that waits notices that it was cancelled."""
NOT_EXECUTED = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")
"""The statuses of a batch that is still worked on."""

AnswerLine = Callable[[dict[str, object], str], tuple[int, dict[str, object]]]
"""Answers the body of a batch's request, given the batch's id: HTTP status and body."""


def read_upload(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Name and bytes of the file in a form with the fields `purpose` and `file`.

    The request's header `content_type` names the boundary.

    Raises:
        ApiError: it is no such form, asks for something else, or the file is not for batches.
    """
    if not content_type.startswith("multipart/form-data"):
        raise ApiError(400, "A file is uploaded as multipart/form-data, with the fields purpose and file.")
    form = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode("latin-1") + body)
    if not form.is_multipart() or form.defects:
        raise ApiError(400, "The multipart form cannot be read; is its boundary right?")
    parts = {str(part.get_param("name", header="content-disposition")): part for part in form.iter_parts()}
    for name in sorted(parts.keys() - {"purpose", "file"}):
        raise ApiError(400, f"{name}: this server knows the fields purpose and file only.", param=name)
    for name in ("purpose", "file"):
        if name not in parts:
            raise ApiError(400, f"Missing required parameter: '{name}'.", param=name)
    purpose = _content(parts["purpose"]).decode("utf-8", "replace")
    if purpose != PURPOSE:
        raise ApiError(400, f"{purpose!r} is no purpose of this server, which has {PURPOSE!r} only.", param="purpose")
    filename = parts["file"].get_filename()
    if filename is None or not filename.endswith(".jsonl"):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
    return filename, _content(parts["file"])


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


class BatchRequest(Strict):
    """The body of a request for a batch; what is kept of a batch is `openai.types.Batch`."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None


def is_good(line: bytes) -> bool:
    """Whether a result belongs into the output file; the others go into the error file."""
    response = orjson.loads(line)["response"]
    return response is not None and response["status_code"] == 200


def _write(path: Path, record: BaseModel) -> None:
    with atomic_write(path) as handle:
        handle.write(record.model_dump_json())


class InputLine(Strict):
    """One request of a batch.

    Example: `{"custom_id": "baker-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": ...}}`
    """

    custom_id: str
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


def read_input(content: bytes) -> tuple[list[InputLine], list[BatchError]]:
    """The requests of an input file, and what is wrong with it.

    They are in the order in which they are worked on, which is not that of the file.
    """
    lines: list[InputLine] = []
    errors: list[BatchError] = []
    known: set[str] = set()
    for number, text in enumerate(content.splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line = InputLine.model_validate(orjson.loads(text))
        except orjson.JSONDecodeError:
            message = "This line is not parseable as valid JSON."
            errors.append(BatchError(code="invalid_json_line", message=message, line=number))
        except ValidationError as error:
            code = "missing_required_parameter" if problem_code(error) == "missing_key" else "invalid_value"
            param = problem_key(error) or None
            errors.append(BatchError(code=code, message=first_problem(error), param=param, line=number))
        else:
            errors.extend(_problems(line, number, known))
            known.add(line.custom_id)
            lines.append(line)
    if not lines and not errors:
        errors.append(BatchError(code="empty_file", message="The input file holds no request."))
    if len(lines) > MAX_LINES:
        message = f"The input file holds {len(lines)} requests; a batch holds {MAX_LINES} at most."
        errors.append(BatchError(code="too_many_tasks", message=message))
    return sorted(lines, key=lambda line: uniform_of("batch order", line.custom_id)), errors[:MAX_ERRORS]


def _result(
    batch: Batch, custom_id: str, answer: tuple[int, dict[str, object]] | None, error: dict[str, object] | None
) -> bytes:
    """The line of a request: `answer` (status, body) if it was answered, well or badly; `error` if the batch ended."""
    number = short_hash(batch.id, custom_id)
    response = {"status_code": answer[0], "request_id": f"req_{number}", "body": answer[1]} if answer else None
    return orjson.dumps({"id": f"batch_req_{number}", "custom_id": custom_id, "response": response, "error": error})


def _problems(line: InputLine, number: int, known: set[str]) -> Iterator[BatchError]:
    if line.custom_id in known:
        message = f"The custom_id {line.custom_id!r} stands in an earlier line too; each must be unique in a batch."
        yield BatchError(code="duplicate_custom_id", message=message, param="custom_id", line=number)
    if line.url != ENDPOINT:
        message = f"The url {line.url!r} is not the batch's endpoint {ENDPOINT!r}."
        yield BatchError(code="url_mismatch", message=message, param="url", line=number)
    if line.body.get("model") != MODEL:
        message = f"The provided model {line.body.get('model')!r} does not exist; this server has {MODEL!r} only."
        yield BatchError(code="model_not_found", message=message, param="body.model", line=number)


class Batches:
    """All files and batches of a server; each unfinished batch has a task that works on it.

    What a method has returned from is in the folder, if there is one.
    """

    def __init__(self, folder: Path | None, answer: AnswerLine, seconds: float, window_seconds: float) -> None:
        """Read what the folder holds; it is made if it is not there. None: all is kept in memory only.

        Args:
            folder: holds the files, the batches and their results.
            answer: answers one request.
            seconds: how long a batch is in progress at least; its requests are spread evenly over that time.
            window_seconds: how long after its creation a batch expires.

        Raises:
            UserError: the folder cannot be used, or holds what no server has written.
        """
        self._folder = folder
        self._answer = answer
        self._seconds = seconds
        self._window_seconds = window_seconds
        self._files: dict[str, tuple[FileObject, bytes]] = {}
        self._batches: dict[str, Batch] = {}
        self._results: dict[str, list[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        if folder is None:
            return
        try:
            self._read(folder)
        except OSError as error:
            message = f"{folder}: cannot be used ({error.strerror}); choose another --state."
            raise UserError("state_unusable", message, file=folder) from error
        except ValidationError as error:
            problem = first_problem(error)
            message = f"{folder}: holds a damaged file ({problem}); choose another --state."
            raise UserError("state_damaged", message, file=folder) from error

    def _read(self, folder: Path) -> None:
        for name in ("files", "batches", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / "files").glob("file-*.json")):
            file = FileObject.model_validate_json(path.read_bytes())
            self._files[file.id] = (file, path.with_suffix(".jsonl").read_bytes())
        for path in sorted((folder / "batches").glob("batch_*.json")):
            batch = self._batches[path.stem] = Batch.model_validate_json(path.read_bytes())
            results = folder / "results" / f"{batch.id}.jsonl"
            self._results[batch.id] = results.read_bytes().splitlines() if results.is_file() else []
            counts, good = batch.request_counts, sum(map(is_good, self._results[batch.id]))
            assert counts is not None
            counts.completed, counts.failed = good, len(self._results[batch.id]) - good

    def add_file(self, filename: str, purpose: Literal["batch", "batch_output"], content: bytes) -> FileObject:
        """Keep a file under a new id."""
        # An id is a random number: a client that comes back to a server without its memory must not find another's.
        file = FileObject(
            id=f"file-{secrets.token_hex(12)}",
            bytes=len(content),
            created_at=_now(),
            filename=filename,
            object="file",
            purpose=purpose,
            status="processed",
        )
        if self._folder is not None:
            # A file whose description is there is complete.
            (self._folder / "files" / f"{file.id}.jsonl").write_bytes(content)
            _write(self._folder / "files" / f"{file.id}.json", file)
        self._files[file.id] = (file, content)
        return file

    def file(self, file_id: str) -> tuple[FileObject, bytes]:
        """A file's description and its bytes. Raises ApiError (404) where there is none."""
        if file_id not in self._files:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return self._files[file_id]

    def _update(self, batch: Batch, **changes: object) -> None:
        """Change a batch and keep it as it is now."""
        for name, value in changes.items():
            setattr(batch, name, value)
        if self._folder is not None:
            _write(self._folder / "batches" / f"{batch.id}.json", batch)

    def batch(self, batch_id: str) -> Batch:
        """A batch. Raises ApiError (404) where there is none."""
        if batch_id not in self._batches:
            raise ApiError(404, f"No such Batch object: {batch_id}", param="id")
        return self._batches[batch_id]

    def batches(self) -> list[Batch]:
        """All batches, the newest first."""
        return [self._batches[batch_id] for batch_id in sorted(self._batches, reverse=True)]

    def _add_result(self, batch: Batch, line: bytes) -> None:
        """Keep a line of a batch's output or error file, before the batch has ended."""
        if self._folder is not None:
            with (self._folder / "results" / f"{batch.id}.jsonl").open("ab", buffering=0) as handle:
                handle.write(line + b"\n")
        self._results[batch.id].append(line)
        counts, good = batch.request_counts, is_good(line)
        assert counts is not None
        counts.completed, counts.failed = counts.completed + good, counts.failed + (not good)

    def create(self, asked: BatchRequest) -> Batch:
        """A new batch, which is worked on from now on."""
        created = _now()
        batch = Batch(
            # The number keeps batches in the order in which they were created.
            id=f"batch_{len(self._batches):06d}{secrets.token_hex(9)}",
            **asked.model_dump(),
            created_at=created,
            expires_at=created + int(self._window_seconds),
            object="batch",
            request_counts=BatchRequestCounts(total=0, completed=0, failed=0),
            status="validating",
        )
        self._batches[batch.id], self._results[batch.id] = batch, []
        self._update(batch)
        self._start(batch)
        return batch

    def resume(self) -> None:
        """Continue the batches that another server has left unfinished."""
        for batch in self.batches():
            if batch.status in UNFINISHED:
                self._start(batch)

    def cancel(self, batch_id: str) -> Batch:
        """Have a batch end soon; its answers stay. Raises ApiError if there is none (404) or it has ended (409)."""
        batch = self.batch(batch_id)
        if batch.status not in UNFINISHED:
            raise ApiError(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if batch.status != "cancelling":
            self._update(batch, status="cancelling", cancelling_at=_now())
        return batch

    def _start(self, batch: Batch) -> None:
        # The event loop itself keeps no task alive.
        task = asyncio.create_task(self._work(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, batch: Batch) -> None:
        try:
            lines, problems = read_input(self.file(batch.input_file_id)[1])
        except ApiError as error:
            lines, problems = [], [BatchError(code="file_not_found", message=str(error), param="input_file_id")]
        if problems:
            errors = Errors(object="list", data=problems)
            self._update(batch, status="failed", failed_at=_now(), errors=errors)
            return
        if batch.status == "validating":
            counts = BatchRequestCounts(total=len(lines), completed=0, failed=0)
            self._update(batch, status="in_progress", in_progress_at=_now(), request_counts=counts)
        await self._answer_all(batch, lines)
        if batch.status == "cancelling":
            self._end(batch, lines, "cancelled")
        elif len(self._results[batch.id]) < len(lines):
            self._end(batch, lines, "expired")
        else:
            self._update(batch, status="finalizing", finalizing_at=_now())
            self._end(batch, lines, "completed")

    async def _answer_all(self, batch: Batch, lines: Sequence[InputLine]) -> None:
        """Answer the requests that have no result yet, until the batch is cancelled or has expired."""
        pause = self._seconds / len(lines)
        due = time.monotonic()
        for line in lines[len(self._results[batch.id]) :]:
            due += pause
            if not await self._wait(batch, due):
                return
            result = _result(batch, line.custom_id, self._answer(line.body, batch.id), None)
            self._add_result(batch, result)

    async def _wait(self, batch: Batch, due: float) -> bool:
        """Sleep until a time of the monotonic clock; False if the batch must end before."""
        while True:
            # Even a sleep of no time lets other requests be answered.
            await asyncio.sleep(min(max(due - time.monotonic(), 0), MAX_SLEEP))
            if batch.status == "cancelling" or time.time() >= (batch.expires_at or 0):
                return False
            if time.monotonic() >= due:
                return True

    def _end(self, batch: Batch, lines: Sequence[InputLine], status: str) -> None:
        """Make the batch's files; requests that were not executed get an error."""
        results = self._results[batch.id]
        code = f"batch_{status}"
        error: dict[str, object] = {"code": code, "message": NOT_EXECUTED.get(code)}
        unanswered = [_result(batch, line.custom_id, None, error) for line in lines[len(results) :]]
        self._update(
            batch,
            status=status,
            output_file_id=self._file(f"{batch.id}_output.jsonl", list(filter(is_good, results))),
            error_file_id=self._file(f"{batch.id}_error.jsonl", [*filterfalse(is_good, results), *unanswered]),
            **{f"{status}_at": _now()},
        )

    def _file(self, name: str, lines: Sequence[bytes]) -> str | None:
        """A file of the lines; none where there are none, as OpenAI has it."""
        return self.add_file(name, "batch_output", b"\n".join(lines) + b"\n").id if lines else None


def _now() -> int:
    return int(time.time())
