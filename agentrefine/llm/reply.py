"""What an endpoint sends back for a chat completion, read with patience: an odd count must not cost a paid answer."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agentrefine.llm.completion import CUT, NO_ANSWER, Answer, Request, Usage, only_in
from agentrefine.llm.failures import CallError, read_error_inside

BYTES_PER_TOKEN = 3
"""Of a text, for estimates. English has four to five, JSON and other languages about three."""

MAX_TOKENS = 100_000_000
"""Tokens of one call; a higher number is no count."""

NO_USAGE = Usage(prompt_tokens=0, completion_tokens=0)
"""Of a call that had no answer."""


def estimated_tokens(*texts: str) -> int:
    """About how many tokens texts have; 0 only for no text at all."""
    return -(-sum(len(text.encode("utf-8", "replace")) for text in texts) // BYTES_PER_TOKEN)


def read_usage(body: Mapping[str, Any], written: int, *, batch: bool) -> Usage:
    """The tokens in a chat completion. A prompt that was not counted has 0 tokens (see `complete_usage`).

    Args:
        body: the completion.
        written: about how many tokens its texts have, thoughts included; counts where the endpoint does not count.
        batch: whether the call went through the Batch API.
    """
    counts = _counts(body)
    prompt = _first(counts, "prompt_tokens", "input_tokens") or 0
    completion = _first(counts, "completion_tokens", "output_tokens") or 0
    total = _first(counts, "total_tokens") or 0
    cached = (
        _detail(counts, "cached_tokens", "prompt")
        or _first(counts, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
        or 0
    )
    thoughts = _detail(counts, "reasoning_tokens", "completion") or _first(counts, "reasoning_tokens") or 0
    if prompt and cached > prompt:  # counted apart
        prompt += cached
    estimated = False
    if not completion:
        completion, estimated = max(written, thoughts), written + thoughts > 0
        if prompt and total > prompt:
            completion, estimated = total - prompt, False
    elif thoughts > completion:  # counted apart
        completion += thoughts
    if prompt and total > prompt + completion:  # thoughts that are billed and counted in the total alone
        completion = total - prompt
    if not prompt and total > completion:
        prompt = total - completion
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=min(cached, prompt) if prompt else cached,
        batch=batch,
        estimated=estimated,
    )


def complete_usage(answer: Answer, request: Request) -> Answer:
    """The answer with estimates in place of tokens that its endpoint did not count."""
    if answer.finish_reason in NO_ANSWER:
        return answer
    usage = answer.usage
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    texts = [message["content"] for message in request.messages]
    if prompt < max(1, usage.cached_tokens):
        prompt = max(usage.cached_tokens, estimated_tokens(*texts))
    if not completion:
        completion = estimated_tokens(answer.text)
    estimated = usage.estimated or (prompt, completion) != (usage.prompt_tokens, usage.completion_tokens)
    if estimated and answer.finish_reason == CUT:
        completion = max(completion, request.max_tokens)
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "estimated": estimated}
    return answer._replace(usage=usage.model_copy(update=counted))


def _counts(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The counts of a completion, wherever its endpoint puts them."""
    for place in _places(body):
        if isinstance(place, dict) and place:
            return place
    return {}


def _places(body: Mapping[str, Any]) -> Iterator[object]:
    yield body.get("usage")
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        yield choice.get("usage") if isinstance(choice, dict) else None  # Moonshot
    groq = body.get("x_groq")
    yield groq.get("usage") if isinstance(groq, dict) else None


def _detail(counts: Mapping[str, Any], name: str, of: str) -> int | None:
    for place in (f"{of}_tokens_details", {"prompt": "input", "completion": "output"}[of] + "_tokens_details"):
        details = counts.get(place)
        if isinstance(details, dict):
            return _first(details, name)
    return None


def _first(counts: Mapping[str, Any], *names: str) -> int | None:
    """The first of these that is a count."""
    return next((count for count in (_count(counts.get(name)) for name in names) if count is not None), None)


def _count(value: object) -> int | None:
    """A number of tokens, also one that is written as a text or with a decimal point; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


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
