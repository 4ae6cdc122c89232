"""What goes wrong in a call, read from the ways in which servers say it."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai

MAX_SAID = 300
"""Characters of a server's words that are repeated to the user."""

_MAX_READ = 4000
"""Characters of a server's words that are looked at."""

_PASSES = (408, 409, 425, 429)
"""Statuses below 500 after which the same call may be answered a little later."""

_OWN = (400, 413, 422, 451)
"""Statuses that concern one call; 401 and the like concern them all."""

_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|size|window|limit)|maximum (?:model |prompt |input |sequence )?len"
    r"|max_(?:model|seq|sequence|input|position)_?len|prompt (?:is |was )?too (?:long|large|big)|prompt exceeds"
    r"|(?:input|request|messages?|conversation|dialogue|text|content)[^.]{0,40} too (?:long|large)\b"
    r"|too many (?:input |prompt )?tokens|input token count|input length|longer than the model"
    r"|inputs?`? (?:tokens|must have less)|tokens? `?\+ `?max_(?:new_)?tokens|exceed\w* (?:the )?(?:model )?token limit"
    r"|reduce the length of (?:the|your) (?:messages|prompt|input)|string too long",
    re.IGNORECASE,
)
"""How OpenAI, vLLM, SGLang, TGI, llama.cpp, LM Studio, Anthropic, Gemini, Mistral, Groq, xAI and others say that a
dialogue does not fit."""

_ANSWER_LIMIT = re.compile(r"completion tokens|output tokens", re.IGNORECASE)
"""The limit on the answer is too high for the model, however short the dialogue."""

_LARGER_THAN_A_MINUTE = re.compile(r"request too large", re.IGNORECASE)
"""One call that is larger than the tokens of a minute: it does not pass later either."""

_FILTER = re.compile(
    r"content[ _-]?(?:filter|policy|management|moderation)|moderation|flagged|usage polic|safety|prohibited_content"
    r"|blocked by|inspection_failed|inappropriate|high risk|exists risk|sensitive",
    re.IGNORECASE,
)
"""How content filters say that they refuse a prompt."""

_WORDS = ("message", "msg", "detail", "error", "errors", "error_msg", "error_description", "reason", "title", "raw")
"""Keys under which servers put what they say."""

_PLACES = ("metadata", "innererror", "body", "response")
"""Keys under which gateways put what the server behind them says."""


class CallError(Exception):
    """A call without an answer.

    Attributes:
        status: of the HTTP answer, or what it amounts to; None when there was none.
        said: the server's words, in one line.
        code: its code or type of error, such as `context_length_exceeded`.
        parameter: the key of the body that it complains of; empty when it names none.
        pause: seconds that it asks to wait; None when it asks for none.
        timed_out: a time limit ended the call.
    """

    def __init__(
        self,
        status: int | None,
        said: str = "",
        *,
        code: str = "",
        parameter: str = "",
        pause: float | None = None,
        timed_out: bool = False,
    ) -> None:
        super().__init__(said)
        self.status = status
        self.said = said
        self.code = code
        self.parameter = parameter
        self.pause = pause
        self.timed_out = timed_out

    @property
    def is_too_long(self) -> bool:
        """Whether the dialogue does not fit into the model's context."""
        if self.code in ("context_length_exceeded", "exceed_context_size_error") or self.status == 413:
            return True
        if self.status == 429:
            return _LARGER_THAN_A_MINUTE.search(self.said) is not None
        if self.status not in (400, 422, 500):
            return False
        found = _TOO_LONG.search(self.said) is not None
        return found and ("context" in self.said.lower() or _ANSWER_LIMIT.search(self.said) is None)

    @property
    def is_filtered(self) -> bool:
        """Whether a content filter refuses the prompt."""
        return self.status in (400, 403, 422, 451) and _FILTER.search(f"{self.code} {self.said}") is not None

    @property
    def may_pass(self) -> bool:
        """Whether the same call may be answered a little later."""
        return self.status is None or self.status in _PASSES or self.status >= 500

    @property
    def is_own(self) -> bool:
        """Whether it may be this call alone that is refused."""
        return self.status in _OWN

    @property
    def is_spent_quota(self) -> bool:
        """Whether there is no money or no quota left, so that waiting for a while does not help."""
        return self.status == 402 or self.code == "insufficient_quota"


def read_failure(error: openai.OpenAIError | TimeoutError) -> CallError:
    """An error of the HTTP client as a `CallError`."""
    if isinstance(error, openai.APIStatusError):
        return read_refusal(error.response.status_code, error.response.content, error.response.headers)
    if isinstance(error, openai.APIConnectionError | TimeoutError):
        return CallError(None, " ".join(str(error).split()), timed_out=_ended_by_a_limit(error))
    return CallError(None, " ".join(str(error).split()))


def read_refusal(status: int, content: bytes | str, headers: Mapping[str, str] | None = None) -> CallError:
    """An HTTP answer that is an error, or that holds one in the place of an answer.

    Read are OpenAI's `{"error": {"message": ...}}`, `{"error": "text"}`, `{"detail": ...}`, `{"message": ...}`, lists
    of these and plain text, also where a gateway wraps one into the other.
    """
    text = content if isinstance(content, str) else content.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else None
    said = "; ".join(dict.fromkeys(_words(body))) if body is not None else re.sub(r"<[^>]*>", " ", text[:_MAX_READ])
    named = _named(error if isinstance(error, dict) else body if isinstance(body, dict) else {})
    return CallError(
        status,
        " ".join(said.split())[:_MAX_READ],
        code=named["code"],
        parameter=named["param"],
        pause=asked_pause(headers or {}),
    )


def read_error_inside(body: Mapping[str, Any]) -> CallError:
    """An error that came with status 200: its own code says what the status should have been."""
    failure = read_refusal(500, json.dumps(body))
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        failure.status = code
    elif "rate_limit" in failure.code:
        failure.status = 429
    elif "invalid" in failure.code or CallError(400, failure.said, code=failure.code).is_too_long:
        failure.status = 400
    return failure


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """The pause that an answer asks for, in seconds; None when it asks for none."""
    if "retry-after" not in headers and "retry-after-ms" not in headers:
        return None
    value = headers.get("retry-after", "")
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # neither seconds nor a date
        return 0.0
    # "-0000" stands for UTC without a zone (RFC 5322).
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _words(value: object, depth: int = 0) -> Iterator[str]:
    """What a server says, in the order of its body. FastAPI's findings come with their place: `body.seed: ...`."""
    if depth > 6:
        return
    if isinstance(value, str):
        if value.strip():
            yield value[:_MAX_READ]
    elif isinstance(value, list):
        for item in value[:5]:
            yield from _words(item, depth + 1)
    elif isinstance(value, dict):
        place = value.get("loc")
        prefix = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
        for key in _WORDS:
            if key in value:
                yield from (prefix + words for words in _words(value[key], depth + 1))
        for key in _PLACES:
            if isinstance(value.get(key), dict | list):
                yield from _words(value[key], depth + 1)


def _named(error: Mapping[str, Any]) -> dict[str, str]:
    """The code and the parameter that an error names."""
    names = {"code": "", "param": ""}
    for key in ("type", "error_type", "status", "code"):  # the last one that is there says most
        if isinstance(error.get(key), str) and error[key]:
            names["code"] = error[key]
    if isinstance(error.get("param"), str):
        names["param"] = error["param"]
    details = error.get("detail")
    message = error.get("message")
    if not isinstance(details, list) and isinstance(message, dict):
        details = message.get("detail")
    if isinstance(details, list) and details and isinstance(details[0], dict) and not names["param"]:
        place = details[0].get("loc")
        names["param"] = str(place[-1]) if isinstance(place, list) and place else ""
    return names


def _ended_by_a_limit(error: BaseException | None) -> bool:
    """Whether a time limit ended a call; the HTTP client calls refused and broken connections time-outs too."""
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False
