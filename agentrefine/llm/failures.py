"""What goes wrong in a call, whatever the way in which a server says it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from agentrefine.llm import quirks

MAX_SAID = 300
"""Characters of a server's words that are repeated to the user."""
_PASSES = (408, 409, 425, 429)
"""Statuses below 500 after which the same call may be answered a little later."""
_OWN = (400, 413, 422, 451)
"""Statuses that concern one call; 401 and the like concern them all."""


@dataclass(eq=False)
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

    status: int | None
    said: str = ""
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
            return quirks.LARGER_THAN_A_MINUTE.search(self.said) is not None
        if self.status not in (400, 422, 500) or quirks.TOO_LONG.search(self.said) is None:
            return False
        return "context" in self.said.lower() or quirks.ANSWER_LIMIT.search(self.said) is None

    @property
    def is_filtered(self) -> bool:
        """Whether a content filter refuses the prompt."""
        return self.status in (400, 403, 422, 451) and quirks.FILTER.search(f"{self.code} {self.said}") is not None

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
        return self.status == 402 or self.code == quirks.SPENT_QUOTA


def read_failure(error: openai.OpenAIError | TimeoutError) -> CallError:
    """An error of the HTTP client as a `CallError`."""
    if isinstance(error, openai.APIStatusError):
        return read_refusal(error.response.status_code, error.response.content, error.response.headers)
    return CallError(None, " ".join(str(error).split()), timed_out=_ended_by_a_limit(error))


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
    if body is None:
        said = re.sub(r"<[^>]*>", " ", text[: quirks.MAX_READ])
    else:
        said = "; ".join(dict.fromkeys(quirks.error_texts(body)))
    outer = body if isinstance(body, dict) else {}
    inner = outer.get("error")
    code, parameter = quirks.error_names(inner if isinstance(inner, dict) else outer)
    said = " ".join(said.split())[: quirks.MAX_READ]
    return CallError(status, said, code=code, parameter=parameter, pause=asked_pause(headers or {}))


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


def _ended_by_a_limit(error: BaseException | None) -> bool:
    """Whether a time limit ended a call; the HTTP client calls refused and broken connections time-outs too."""
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False
