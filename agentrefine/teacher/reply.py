"""What an endpoint sends back for a chat completion, read with patience: an odd count must not cost a paid answer."""

import json
from typing import Any

from agentrefine.teacher.completion import Answer, Usage

_MOST_TOKENS = 100_000_000
"""Of one call; what is above is no count."""


def read_reply(body: bytes | str, *, batch: bool = False) -> Answer | None:
    """The answer in a body; None when it is no chat completion: some gateways answer 200 with an error inside.

    Args:
        body: JSON in the form of OpenAI's API.
        batch: whether the call went through the Batch API.
    """
    try:
        completion = json.loads(body)
        choice = completion["choices"][0]
        message = choice["message"]
        said = message.get("content") or message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    reason = choice.get("finish_reason")
    return Answer(
        text=_storable(_text(said)),
        usage=_usage(completion.get("usage"), batch),
        finish_reason=_storable(reason) if isinstance(reason, str) and reason else "unknown",
    )


def _text(said: object) -> str:
    """A message's content: a text, or parts that hold texts."""
    if isinstance(said, list):
        parts = [part.get("text") for part in said if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return said if isinstance(said, str) else ""


def _usage(counts: Any, batch: bool) -> Usage:  # noqa: ANN401
    counts = counts if isinstance(counts, dict) else {}
    details = counts.get("prompt_tokens_details")
    return Usage(
        prompt_tokens=_tokens(counts.get("prompt_tokens")),
        completion_tokens=_tokens(counts.get("completion_tokens")),
        cached_tokens=_tokens(details.get("cached_tokens") if isinstance(details, dict) else None),
        batch=batch,
    )


def _tokens(count: object) -> int:
    return min(max(0, count), _MOST_TOKENS) if isinstance(count, int) else 0


def _storable(text: str) -> str:
    """The text with lone halves of Unicode pairs, which no file can hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
