"""What an endpoint sends back for a chat completion, read with patience: an odd count must not cost a paid answer."""

import json
from typing import Any

from agentrefine.llm.completion import CUT, Answer, only_in
from agentrefine.llm.failures import CallError, read_error_inside
from agentrefine.llm.usage import estimated_tokens, read_usage

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message in which servers put what a model thinks before its answer."""

_PARTS = ("thinking", "reasoning")
"""Types of a content's parts that hold thoughts."""

_CUT = ("max_tokens", "max_output_tokens", "model_length", "length_limit", "token_limit")
"""What others call OpenAI's `length`."""

_FAILED = ("error", "abort", "aborted", "cancelled")
"""Finish reasons of a text that its server did not write to the end."""


def read_reply(body: bytes | str, *, batch: bool = False) -> Answer:
    """The answer in a body.

    Args:
        body: JSON in the form of OpenAI's API.
        batch: whether the call went through the Batch API.

    Raises:
        CallError: it is no chat completion; some gateways answer 200 with an error inside.
    """
    try:
        completion = json.loads(body)
    except (ValueError, RecursionError):
        raise CallError(None) from None
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        said = message.get("content") or message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        if isinstance(completion, dict) and completion.get("error"):
            raise read_error_inside(completion) from None
        raise CallError(None) from None
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) and reason else "unknown"
    if reason.lower() in _FAILED:
        found = choice.get("error") or completion.get("error")
        raise read_error_inside({"error": found or f"the answer ends with {reason}"})
    text = _storable(_text(said))
    field, thoughts = _thoughts(message)
    return Answer(
        text=text,
        usage=read_usage(completion, estimated_tokens(text, thoughts), batch=batch),
        finish_reason=_finish_reason(reason, "" if text.strip() else field),
    )


def _finish_reason(reason: str, field: str) -> str:
    """A finish reason by OpenAI's name.

    Args:
        reason: as the endpoint reports it.
        field: where the thoughts are when there is nothing else.
    """
    if reason.lower() in (CUT, *_CUT):
        return CUT
    if reason.lower() in ("safety", "prohibited_content", "blocklist", "sensitive"):
        return "content_filter"
    return only_in(field) if field else _storable(reason)


def _text(said: object) -> str:
    """A message's content: a text, or parts of which those that are thoughts are left out."""
    if isinstance(said, list):
        parts = [part.get("text") for part in said if isinstance(part, dict) and part.get("type") not in _PARTS]
        return "".join(part for part in parts if isinstance(part, str))
    return said if isinstance(said, str) else ""


def _thoughts(message: Any) -> tuple[str, str]:  # noqa: ANN401
    """The field that holds a message's thoughts, and their text; empty where there are none."""
    for name in _THOUGHTS:
        thoughts = message.get(name)
        if isinstance(thoughts, str) and thoughts.strip():
            return name, thoughts
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    inner = "".join(_text(part.get("thinking", part.get("text"))) for part in parts if part.get("type") in _PARTS)
    return ("parts of type thinking", inner) if inner.strip() else ("", "")


def _storable(text: str) -> str:
    """The text with lone halves of Unicode pairs, which no file can hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
