"""The HTTP side of the simulated teacher: OpenAI's chat completions, files and batches."""

import asyncio
import os
import time
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

import orjson
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agentrefine.errors import UserError
from agentrefine.files import first_problem
from agentrefine.params.teacher import SimulatedTeacher, WireFaultKind
from agentrefine.simulation.batches import Batches, BatchRequest, read_upload
from agentrefine.simulation.chat import MODEL, ApiError, ChatRequest, complete, read_chat, unknown_model
from agentrefine.simulation.wire import REFUSED, WITHOUT_ANSWER, drawn_fault, faulty

MODEL_CARD = {
    "id": MODEL,
    "object": "model",
    "created": 0,
    "owned_by": "agentrefine: a rule-based simulation, not a language model",
}
REMEMBERED_REQUESTS = 100_000
"""Requests whose earlier attempts are counted, so that a retry of a failed one is a new draw."""
REMEMBERED_ANSWERS = 2048
PAGE_OF_BATCHES = 20
MAX_PAGE = 100


class Settings(NamedTuple):
    """How the server serves (`python -m agentrefine.simulation --help`); none of it changes an answer."""

    latency: float
    log: Path | None
    structured: bool
    hang_seconds: float
    batch_seconds: float
    batch_window_seconds: float
    state: Path | None


class Server:
    """The endpoints. A request is drawn and logged alike, whether it comes by itself or in a batch.

    Once the event loop runs, `batches.resume()` continues the batches of a server that ended before them.
    """

    def __init__(self, params: SimulatedTeacher, settings: Settings) -> None:
        """Open the log and the state. Raises UserError if one of them cannot be used."""
        self._params = params
        self._settings = settings
        self._attempts = lru_cache(REMEMBERED_REQUESTS)(lambda key: count())
        try:
            self._log = os.open(settings.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if settings.log else None
        except OSError as error:
            message = f"{settings.log}: cannot be written ({error.strerror}); choose another --log."
            raise UserError("not_writable", message, file=settings.log) from error
        self.batches = Batches(
            settings.state, self._answer_in_batch, settings.batch_seconds, settings.batch_window_seconds
        )
        # The same request is answered by the same bytes: a retry, or a benchmark's second round, waits for no rules.
        self._answer = lru_cache(maxsize=REMEMBERED_ANSWERS)(self._write_answer)
        # In a batch there is no connection that could break.
        self._batch_faults = [kind for kind in params.wire_fault_kinds if kind in REFUSED]

    def application(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/models/{name}", self._model),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/files", self._upload, methods=["POST"]),
                Route("/v1/files/{id}", self._file),
                Route("/v1/files/{id}/content", self._content),
                Route("/v1/batches", self._create_batch, methods=["POST"]),
                Route("/v1/batches", self._list_batches),
                Route("/v1/batches/{id}", self._batch),
                Route("/v1/batches/{id}/cancel", self._cancel_batch, methods=["POST"]),
            ],
            exception_handlers={ApiError: _refused},
        )

    async def _chat(self, request: Request) -> ASGIApp:
        text = await request.body()
        asked = read_chat(text, structured=self._settings.structured)
        attempt, fault = self._draw_fault(asked, self._params.wire_fault_kinds)
        if self._settings.latency:
            await asyncio.sleep(self._settings.latency)
        body = b"" if fault in WITHOUT_ANSWER else self._answer(text)
        self._log_request(asked, attempt, fault, batch=None)
        if fault is None:
            return Response(body, media_type="application/json")
        return faulty(fault, body, self._settings.hang_seconds)

    def _write_answer(self, text: bytes) -> bytes:
        asked = read_chat(text, structured=self._settings.structured)
        return orjson.dumps(complete(asked, asked.key(), self._params))

    def _answer_in_batch(self, body: dict[str, object], batch_id: str) -> tuple[int, dict[str, object]]:
        try:
            asked = read_chat(orjson.dumps(body), structured=self._settings.structured)
        except ApiError as error:
            return error.status, error.body
        attempt, fault = self._draw_fault(asked, self._batch_faults)
        self._log_request(asked, attempt, fault, batch=batch_id)
        if fault is None:
            return 200, complete(asked, asked.key(), self._params)
        return REFUSED[fault].status, REFUSED[fault].body

    def _draw_fault(self, asked: ChatRequest, kinds: list[WireFaultKind]) -> tuple[int, WireFaultKind | None]:
        """How often the request had come before, and what goes wrong on the wire this time, if anything."""
        attempt = next(self._attempts(asked.key()))
        return attempt, drawn_fault(self._params.wire_faults, kinds, asked.key(), attempt)

    def _log_request(self, asked: ChatRequest, attempt: int, fault: WireFaultKind | None, batch: str | None) -> None:
        """Append a request to the log before its answer is sent; a completion's id is `chatcmpl-` and the key."""
        if self._log is None:
            return
        record = {"time": time.time(), "key": asked.key(), "seed": asked.seed, "attempt": attempt}
        record |= {"outcome": fault or "answered", "batch": batch}
        # One unbuffered write: lines of other processes cannot stand in the middle of this one.
        os.write(self._log, orjson.dumps(record) + b"\n")

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [MODEL_CARD]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != MODEL:
            raise unknown_model(name)
        return JSONResponse(MODEL_CARD)

    async def _upload(self, request: Request) -> Response:
        filename, content = read_upload(request.headers.get("Content-Type", ""), await request.body())
        return _record(self.batches.add_file(filename, "batch", content))

    async def _file(self, request: Request) -> Response:
        return _record(self.batches.file(request.path_params["id"])[0])

    async def _content(self, request: Request) -> Response:
        return Response(self.batches.file(request.path_params["id"])[1], media_type="application/octet-stream")

    async def _create_batch(self, request: Request) -> Response:
        try:
            asked = BatchRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise ApiError(400, first_problem(error)) from error
        return _record(self.batches.create(asked))

    async def _batch(self, request: Request) -> Response:
        return _record(self.batches.batch(request.path_params["id"]))

    async def _cancel_batch(self, request: Request) -> Response:
        return _record(self.batches.cancel(request.path_params["id"]))

    async def _list_batches(self, request: Request) -> Response:
        limit = request.query_params.get("limit", str(PAGE_OF_BATCHES))
        if not limit.isdecimal() or not 1 <= int(limit) <= MAX_PAGE:
            raise ApiError(400, f"limit: {limit!r} is no number from 1 to {MAX_PAGE}.", param="limit")
        batches = self.batches.batches()
        after = request.query_params.get("after")
        if after is not None:
            batches = [batch for batch in batches if batch.id < self.batches.batch(after).id]
        page = batches[: int(limit)]
        return JSONResponse(
            {
                "object": "list",
                "data": [batch.model_dump() for batch in page],
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": len(batches) > len(page),
            }
        )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


def _record(record: BaseModel) -> Response:
    return JSONResponse(record.model_dump())
