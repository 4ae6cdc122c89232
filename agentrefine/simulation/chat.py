"""Chat completions: what a request may hold, and the completion that answers it."""

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.responses import JSONResponse

from agentrefine.files import first_problem, short_hash
from agentrefine.llm.completion import CHARACTERS_PER_TOKEN, TRUNCATED
from agentrefine.params.teacher import SimulatedTeacher
from agentrefine.simulation.answers import REFUSAL, answer

MODEL = "offline-teacher"
TURNS = "turns"
"""The key that holds a game where a schema wants an object."""


class ApiError(Exception):
    """A request is refused, with an HTTP status and a body as OpenAI writes it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Describe the refusal: `param` is the request's key that is wrong, `code` a short name for programs."""
        super().__init__(message)
        kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        self.status = status
        self.body: dict[str, object] = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self._headers = headers

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body, self.status, self._headers)


class Strict(BaseModel):
    """A part of a request. Keys that this server could not honour are refused."""

    model_config = ConfigDict(extra="forbid")


class ObjectSchema(BaseModel):
    """The root of a schema, which must be an object with properties; what else it says is not enforced."""

    type: Literal["object"]
    properties: dict[str, Any]


class JsonSchema(Strict):
    """The schema of an answer, with its name."""

    name: str
    root: ObjectSchema = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """The form that an answer is to have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _a_schema_is_given_if_wanted(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be given with type json_schema, and with no other type")
        return self

    @property
    def properties(self) -> dict[str, Any]:
        """The schemas of the object's keys; none where no schema is given."""
        return self.json_schema.root.properties if self.json_schema else {}


class ChatRequest(Strict):
    """A chat completions request."""

    class ChatMessage(Strict):
        """One message."""

        role: str
        content: str
        name: str | None = None

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=1, ge=1, le=1)
    stream: Literal[False] | None = False
    response_format: ResponseFormat = ResponseFormat(type="text")
    # These sort, label or shape draws that rules do not make; they ask for nothing that is missing in the answer.
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def key(self) -> str:
        """Identifies everything that the answer is drawn from."""
        said = [part for message in self.messages for part in (message.role, message.content)]
        return short_hash(str(self.seed), str(self.temperature), *said)


def read_chat(body: bytes, *, structured: bool) -> ChatRequest:
    """The request of an HTTP body in JSON; `structured`: `response_format` may ask for JSON.

    Raises:
        ApiError: 400 with the key that is wrong, or 404 for a model that is not here.
    """
    try:
        asked = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        param = ".".join(str(part) for part in error.errors()[0]["loc"]) or None
        raise ApiError(400, first_problem(error), param=param) from error
    if asked.model != MODEL:
        raise unknown_model(asked.model)
    if asked.response_format.type != "text" and not structured:
        raise ApiError(
            400,
            f"response_format {asked.response_format.type}: this server answers plain text only; leave it out, "
            "or start the server with --structured.",
            param="response_format",
            code="unsupported_response_format",
        )
    return asked


def unknown_model(name: str) -> ApiError:
    """The error for another model's name."""
    message = f"The model {name!r} does not exist; this server has {MODEL!r} only."
    return ApiError(404, message, param="model", code="model_not_found")


def complete(asked: ChatRequest, key: str, params: SimulatedTeacher) -> dict[str, object]:
    """The completion, as OpenAI writes it: a pure function of the request and the parameters."""
    form = asked.response_format
    text = _only_answer(form) or _in_form(answer(asked.messages[-1].content, key, asked.seed, params), form)
    tokens = asked.max_completion_tokens or asked.max_tokens
    limit = len(text) if tokens is None else tokens * CHARACTERS_PER_TOKEN
    reason = TRUNCATED if len(text) > limit else "stop"
    text = text[:limit]
    # A schema has no room for a refusal, so OpenAI gives it a key of its own.
    content, refusal = (None, text) if form.type == "json_schema" and text == REFUSAL else (text, None)
    # Tokens are counted by length: there is no tokenizer behind the rules.
    prompt_tokens = -(-sum(len(message.content) for message in asked.messages) // CHARACTERS_PER_TOKEN)
    completion_tokens = -(-len(text) // CHARACTERS_PER_TOKEN)
    return {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        # The same request gives the same bytes, so no clock is read.
        "created": 0,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _only_answer(form: ResponseFormat) -> str | None:
    """The only answer that a schema of single values allows, as JSON; None where there is a choice."""
    only: dict[str, Any] = {}
    for name, schema in form.properties.items():
        match schema:
            case {"const": value} | {"enum": [value]}:
                only[name] = value
            case _:
                return None
    return json.dumps(only, ensure_ascii=False) if only else None


def _in_form(text: str, form: ResponseFormat) -> str:
    """An answer without Markdown where JSON is asked for; a list of turns as an object where the schema has `turns`.

    What is wrong in a bad answer stays wrong: a list that is cut off is an object that is cut off.
    """
    if form.type == "text":
        return text
    bare = text.removeprefix("```json\n").removesuffix("\n```")
    if TURNS not in form.properties or not bare.startswith("["):
        return bare
    try:
        json.loads(bare)
    except ValueError:
        return f'{{"{TURNS}": {bare}'
    return f'{{"{TURNS}": {bare}}}'
