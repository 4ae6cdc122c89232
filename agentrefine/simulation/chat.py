"""Chat completions: what a request may hold, and the completion that answers it."""

import json
from collections import OrderedDict
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentrefine.files import first_problem, short_hash
from agentrefine.params.teacher import OfflineTeacher
from agentrefine.simulation.answers import REFUSAL, answer
from agentrefine.simulation.requests import ApiError

TURNS = "turns"
"""The key that holds a game where a schema wants an object."""


class JsonSchema(BaseModel):
    """The schema of an answer, with its name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    definition: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _root_is_an_object(self) -> Self:
        if self.definition.get("type") != "object" or not isinstance(self.definition.get("properties"), dict):
            raise ValueError("the schema's root must be of type object with properties")
        return self

    @property
    def properties(self) -> dict[str, Any]:
        """The schemas of the object's keys."""
        properties: dict[str, Any] = self.definition["properties"]
        return properties


class ResponseFormat(BaseModel):
    """The form that an answer is to have."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _a_schema_is_given_if_wanted(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be given with type json_schema, and with no other type")
        return self


def constants(form: ResponseFormat) -> str | None:
    """The only answer that a schema of single values allows, as JSON; None where there is a choice."""
    if form.json_schema is None or not form.json_schema.properties:
        return None
    answer: dict[str, Any] = {}
    for name, schema in form.json_schema.properties.items():
        values = _values(schema)
        if len(values) != 1:
            return None
        answer[name] = values[0]
    return json.dumps(answer, ensure_ascii=False)


def formed(text: str, form: ResponseFormat) -> str:
    """An answer without Markdown; a list of turns becomes an object where the schema has `turns`.

    What is wrong in a bad answer stays wrong: a list that is cut off is an object that is cut off.
    """
    bare = text.removeprefix("```json\n").removesuffix("\n```")
    if form.json_schema is None or TURNS not in form.json_schema.properties or not bare.startswith("["):
        return bare
    return f'{{"{TURNS}": {bare}' + ("}" if _is_json(bare) else "")


def _values(schema: object) -> list[Any]:
    """The values that a schema lists; none where it describes them in another way."""
    if not isinstance(schema, dict):
        return []
    if "const" in schema:
        return [schema["const"]]
    listed = schema.get("enum")
    return listed if isinstance(listed, list) else []


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


MODEL = "offline-teacher"
CHARACTERS_PER_TOKEN = 4
"""Tokens are counted by length: there is no tokenizer behind the rules."""
REMEMBERED_REQUESTS = 100_000


class ChatRequest(BaseModel):
    """A chat completions request. Keys that this server could not honour are refused, none is overlooked."""

    model_config = ConfigDict(extra="forbid")

    class ChatMessage(BaseModel):
        """One message."""

        model_config = ConfigDict(extra="forbid")

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


def read_chat(body: bytes, *, structured: bool) -> ChatRequest:
    """The request of an HTTP body.

    Args:
        body: the JSON text.
        structured: whether `response_format` may ask for JSON.

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


def complete(asked: ChatRequest, key: str, params: OfflineTeacher) -> dict[str, object]:
    """The completion, as OpenAI writes it: a pure function of the request and the parameters."""
    text = _text(asked, key, params)
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
                "message": _message(text, asked.response_format),
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


def _text(asked: ChatRequest, key: str, params: OfflineTeacher) -> str:
    only = constants(asked.response_format)
    if only is not None:
        return only
    text = answer(asked.messages[-1].content, key, asked.seed, params)
    return text if asked.response_format.type == "text" else formed(text, asked.response_format)


def _message(text: str, form: ResponseFormat) -> dict[str, str | None]:
    """The assistant's message; a schema has no room for a refusal, so OpenAI gives it a key of its own."""
    refused = form.type == "json_schema" and text == REFUSAL
    return {"role": "assistant", "content": None if refused else text, "refusal": text if refused else None}


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)
