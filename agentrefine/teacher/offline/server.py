"""The HTTP side of the offline teacher: OpenAI's chat completions API, its error form, and faults on the wire."""

import asyncio
import os
from collections import OrderedDict

import orjson
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentrefine.files import first_problem, short_hash
from agentrefine.params import OfflineTeacher
from agentrefine.teacher.offline.answers import answer
from agentrefine.teacher.offline.draws import share

MODEL = "offline-teacher"
OWNER = "agentrefine: a rule-based stand-in, not a language model"
CHARACTERS_PER_TOKEN = 4
"""Tokens are counted by length: there is no tokenizer behind the rules."""
SLOW_SECONDS = 0.2
RETRY_AFTER_SECONDS = 0.05
REMEMBERED_REQUESTS = 100_000


class ChatRequest(BaseModel):
    """The part of a chat completions request that changes the answer; other keys are accepted and ignored."""

    model_config = ConfigDict(extra="ignore")

    class ChatMessage(BaseModel):
        """One message."""

        model_config = ConfigDict(extra="ignore")

        role: str
        content: str

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=1, ge=1, le=1)
    stream: bool | None = Field(default=False)

    def key(self) -> str:
        """Identifies everything that the answer is drawn from."""
        said = [part for message in self.messages for part in (message.role, message.content)]
        return short_hash(str(self.seed), str(self.temperature), *said)


class Attempts:
    """Counts how often each request has come, so that a retry of a failed one is a new draw."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def next(self, key: str) -> int:
        """How often the request has come before."""
        count = self._counts.pop(key, 0)
        self._counts[key] = count + 1
        if len(self._counts) > REMEMBERED_REQUESTS:
            self._counts.popitem(last=False)
        return count


def application(params: OfflineTeacher) -> Starlette:
    """The server's routes."""
    attempts = Attempts()

    async def models(_: Request) -> Response:
        return _json({"object": "list", "data": [_model_card()]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        return _json(_model_card()) if name == MODEL else _unknown_model(name)

    async def chat(request: Request) -> Response:
        try:
            asked = ChatRequest.model_validate_json(await request.body())
        except ValidationError as error:
            return _error(400, "invalid_request_error", first_problem(error))
        if asked.model != MODEL:
            return _unknown_model(asked.model)
        if asked.stream:
            return _error(400, "invalid_request_error", "stream: this server does not stream; leave it out.")
        key = asked.key()
        fault = _wire_fault(params.wire_faults, key, attempts.next(key))
        if isinstance(fault, Response):
            return fault
        await asyncio.sleep(fault)
        return _json(_completion(asked, key, params))

    return Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/models/{name}", model, methods=["GET"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )


async def stop_with_parent(server: uvicorn.Server, parent: int) -> None:
    """End the server once the process that started it has ended: it then belongs to another parent."""
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    server.should_exit = True


def _completion(asked: ChatRequest, key: str, params: OfflineTeacher) -> dict[str, object]:
    text = answer(asked.messages[-1].content, key, asked.seed, params)
    limit = asked.max_completion_tokens or asked.max_tokens
    cut = limit is not None and len(text) > limit * CHARACTERS_PER_TOKEN
    if limit is not None and cut:
        text = text[: limit * CHARACTERS_PER_TOKEN]
    prompt_tokens = _tokens(sum(len(message.content) for message in asked.messages))
    completion_tokens = _tokens(len(text))
    return {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        # The same request gives the same bytes, so no clock is read.
        "created": 0,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": "length" if cut else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def _wire_fault(rate: float, key: str, attempt: int) -> Response | float:
    """A failed answer, or the seconds to wait before a good one."""
    if share("wire", key, str(attempt)) >= rate:
        return 0.0
    kind = int(share("wire kind", key, str(attempt)) * 4)
    if kind == 0:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return _error(429, "rate_limit_error", "Too many requests; try again after the given time.", headers)
    if kind == 1:
        return _error(500, "server_error", "The server had an error while processing your request.")
    if kind == 2:
        return _error(503, "server_error", "The server is overloaded; try again later.")
    return SLOW_SECONDS


def _model_card() -> dict[str, object]:
    return {"id": MODEL, "object": "model", "created": 0, "owned_by": OWNER}


def _unknown_model(name: str) -> Response:
    return _error(404, "invalid_request_error", f"The model {name!r} does not exist; this server has {MODEL!r} only.")


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return _json(body, status, headers)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")
