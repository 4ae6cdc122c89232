"""Lines of batch files: the requests of an input file, and what comes of each."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from agentrefine.files import first_problem, short_hash
from agentrefine.teacher.offline.batch_store import BatchError
from agentrefine.teacher.offline.chat import MODEL
from agentrefine.teacher.offline.draws import share

ENDPOINT = "/v1/chat/completions"
MOST_LINES = 50_000
MOST_ERRORS = 100
"""Errors that are told of one file."""

NOT_EXECUTED = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}


class InputLine(BaseModel):
    """One request of a batch."""

    model_config = ConfigDict(extra="forbid")

    custom_id: str
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class BatchInput(NamedTuple):
    """What an input file holds: requests, or what is wrong with it."""

    lines: list[InputLine]
    errors: list[BatchError]


def read_input(content: bytes) -> BatchInput:
    """The requests of an input file in the order in which they are worked on, which is not that of the file."""
    lines: list[InputLine] = []
    errors: list[BatchError] = []
    known: set[str] = set()
    for number, text in enumerate(content.splitlines(), start=1):
        if not text.strip():
            continue
        read = _read_line(text, number)
        if isinstance(read, BatchError):
            errors.append(read)
            continue
        errors.extend(_problems(read, number, known))
        known.add(read.custom_id)
        lines.append(read)
    if not lines and not errors:
        errors.append(BatchError(code="empty_file", message="The input file holds no request."))
    if len(lines) > MOST_LINES:
        message = f"The input file holds {len(lines)} requests; a batch holds {MOST_LINES} at most."
        errors.append(BatchError(code="too_many_tasks", message=message))
    return BatchInput(sorted(lines, key=lambda line: share("batch order", line.custom_id)), errors[:MOST_ERRORS])


def executed(batch_id: str, custom_id: str, status: int, body: dict[str, object]) -> bytes:
    """The line of a request that was answered, well or badly."""
    response = {"status_code": status, "request_id": f"req_{short_hash(batch_id, custom_id)}", "body": body}
    return _line(batch_id, custom_id, response, None)


def not_executed(batch_id: str, custom_id: str, code: str) -> bytes:
    """The line of a request that the batch's end came before; `code` is one of NOT_EXECUTED."""
    return _line(batch_id, custom_id, None, {"code": code, "message": NOT_EXECUTED[code]})


def _line(batch_id: str, custom_id: str, response: dict[str, object] | None, error: dict[str, object] | None) -> bytes:
    number = f"batch_req_{short_hash(batch_id, custom_id)}"
    return orjson.dumps({"id": number, "custom_id": custom_id, "response": response, "error": error})


def _read_line(text: bytes, number: int) -> InputLine | BatchError:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return BatchError(code="invalid_json_line", message="This line is not parseable as valid JSON.", line=number)
    try:
        return InputLine.model_validate(value)
    except ValidationError as error:
        finding = error.errors()[0]
        code = "missing_required_parameter" if finding["type"] == "missing" else "invalid_value"
        param = ".".join(str(part) for part in finding["loc"]) or None
        return BatchError(code=code, message=first_problem(error), param=param, line=number)


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
