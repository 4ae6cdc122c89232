"""What comes back for a call: an answer and its tokens, or why there is none, whatever form a server gives it."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from agentrefine.llm import quirks
from agentrefine.llm.completion import NO_ANSWER, TRUNCATED, Answer, Request, Usage, only_in

BYTES_PER_TOKEN = 3
"""Bytes of a text for each token, for estimates. English has four to five, JSON and other languages about three."""
NO_USAGE = Usage(prompt_tokens=0, completion_tokens=0)
"""The tokens of a call that had no answer."""


@dataclass(eq=False)
class CallError(Exception):
    """A call without an answer.

    Attributes:
        status: of the HTTP answer, or what it amounts to; None when there was none.
        message: the server's words, in one line.
        code: its code or type of error, such as `context_length_exceeded`.
        parameter: the key of the body that it complains of; empty when it names none.
        pause: seconds that it asks to wait; None when it asks for none.
        timed_out: a time limit ended the call.
    """

    status: int | None
    message: str = ""
    code: str = ""
    parameter: str = ""
    pause: float | None = None
    timed_out: bool = False

    @property
    def is_too_long(self) -> bool:
        """Whether the dialogue does not fit into the model's context."""
        if self.code in quirks.TOO_LONG_CODES or self.status == 413:
            return True
        if self.status == 429:
            return quirks.OVER_MINUTE_LIMIT.search(self.message) is not None
        if self.status not in (400, 422, 500) or quirks.TOO_LONG.search(self.message) is None:
            return False
        return "context" in self.message.lower() or quirks.ANSWER_LIMIT.search(self.message) is None

    @property
    def is_filtered(self) -> bool:
        """Whether a content filter refuses the prompt."""
        return self.status in (400, 403, 422, 451) and quirks.FILTER.search(f"{self.code} {self.message}") is not None

    @property
    def is_transient(self) -> bool:
        """Whether the same call may be answered a little later."""
        return self.status is None or self.status in (408, 409, 425, 429) or self.status >= 500

    @property
    def is_spent_quota(self) -> bool:
        """Whether there is no money or no quota left, so that waiting for a while does not help."""
        return self.status == 402 or self.code == quirks.SPENT_QUOTA


def read_failure(error: openai.OpenAIError | TimeoutError) -> CallError:
    """An error of the HTTP client as a `CallError`."""
    if isinstance(error, openai.APIStatusError):
        return read_refusal(error.response.status_code, error.response.content, error.response.headers)
    return CallError(None, " ".join(str(error).split()), timed_out=_is_timeout(error))


def read_refusal(status: int, content: bytes | str, headers: Mapping[str, str] = {}) -> CallError:
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
    if body is None:
        message = re.sub(r"<[^>]*>", " ", text[: quirks.MAX_READ])
    else:
        message = "; ".join(dict.fromkeys(quirks.error_texts(body)))
    outer = body if isinstance(body, dict) else {}
    inner = outer.get("error")
    code, parameter = quirks.error_names(inner if isinstance(inner, dict) else outer)
    message = " ".join(message.split())[: quirks.MAX_READ]
    return CallError(status, message, code, parameter, asked_pause(headers))


def read_error_inside(body: Mapping[str, Any]) -> CallError:
    """An error that came with status 200: its own code says what the status should have been."""
    failure = read_refusal(500, json.dumps(body))
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        failure.status = code
    elif "rate_limit" in failure.code:
        failure.status = 429
    elif "invalid" in failure.code or CallError(400, failure.message, code=failure.code).is_too_long:
        failure.status = 400
    return failure


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """The pause that an answer asks for, in seconds; None when it asks for none."""
    if "retry-after" not in headers and "retry-after-ms" not in headers:
        return None
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(value))
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # neither seconds nor a date
        return 0.0
    # "-0000" stands for UTC without a zone (RFC 5322).
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _is_timeout(error: BaseException | None) -> bool:
    """Whether a time limit ended a call; the HTTP client calls refused and broken connections time-outs too."""
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


def read_reply(body: bytes | str, *, batch: bool = False) -> Answer:
    """The answer in a body. Raises CallError if it is no chat completion; some gateways answer 200 with an error."""
    try:
        completion = json.loads(body)
    except (ValueError, RecursionError):
        raise CallError(None) from None
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        content = message.get("content") or message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        if isinstance(completion, dict) and completion.get("error"):
            raise read_error_inside(completion) from None
        raise CallError(None) from None
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) and reason else "unknown"
    if reason.lower() in quirks.FAILED:
        found = choice.get("error") or completion.get("error")
        raise read_error_inside({"error": found or f"the answer ends with {reason}"})
    text = _storable(quirks.content_text(content))
    field, thoughts = quirks.thoughts(message)
    named = quirks.finish_reason(reason)
    if named == reason != TRUNCATED and field and not text.strip():
        named = only_in(field)
    usage = quirks.read_usage(completion, _estimated_tokens(text, thoughts), batch=batch)
    return Answer(text, usage, _storable(named))


def complete_usage(answer: Answer, request: Request) -> Answer:
    """The answer with estimates in place of tokens that its endpoint did not count."""
    if answer.finish_reason in NO_ANSWER:
        return answer
    usage = answer.usage
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt < max(1, usage.cached_tokens):
        texts = [message["content"] for message in request.messages]
        prompt = max(usage.cached_tokens, _estimated_tokens(*texts))
    if not completion:
        completion = _estimated_tokens(answer.text)
    estimated = usage.estimated or (prompt, completion) != (usage.prompt_tokens, usage.completion_tokens)
    if estimated and answer.finish_reason == TRUNCATED:
        completion = max(completion, request.max_tokens)
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "estimated": estimated}
    return answer._replace(usage=usage.model_copy(update=counted))


def _estimated_tokens(*texts: str) -> int:
    """About how many tokens texts have; 0 only for no text at all."""
    return -(-sum(len(text.encode("utf-8", "replace")) for text in texts) // BYTES_PER_TOKEN)


def _storable(text: str) -> str:
    """The text with lone halves of Unicode pairs, which no file can hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
