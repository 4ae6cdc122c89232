"""What OpenAI-compatible servers do differently: a provider's quirk is named here and nowhere else.

The other modules speak OpenAI's API and ask this one for the rest: how to connect, which parameters a model may refuse,
where a reply holds its text, its thoughts and its counts, and in which words an error says what is wrong. Thoughts that
a server leaves in the text are for `thinking`, which is used without any endpoint too.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient

from agentrefine.llm.completion import TRUNCATED, Usage
from agentrefine.proxies import check_proxy, is_loopback

# Connections.


def make_client(base_url: str, api_key: str, timeout_seconds: float, section: str) -> AsyncOpenAI:
    """The HTTP client of an endpoint; it retries nothing. `section` of params.yaml holds the URL.

    Raises:
        UserError: the endpoint is behind a SOCKS proxy and the package for it is missing.
    """
    socks = check_proxy(base_url, f"{section}.base_url")  # the faster client knows no SOCKS
    return AsyncOpenAI(
        base_url=base_url,
        api_key=api_key,
        timeout=timeout_seconds,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient() if socks else DefaultAioHttpClient(trust_env=not is_loopback(base_url)),
    )


# Parameters.

LIMIT = "max_tokens"
"""The key of the limit on an answer's length, as most servers know it."""
OTHER_LIMIT = "max_completion_tokens"
"""The same key for OpenAI's reasoning models."""
OPTIONAL = ("top_p", "seed", "temperature")
"""Keys that an answer can do without; the first is left out where a refusal names several."""
REFUSES = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra|forbidden"
    r"|only the default|deprecated|invalid|cannot|can't|not available|must be|may only|not implemented|not accept",
    re.IGNORECASE,
)
"""How servers say that they do not take a parameter."""

OUT_OF_RANGE = re.compile(
    r"between|less than or equal|in the range|at most|<=|maximum|too (?:high|large)", re.IGNORECASE
)
"""How servers say that they take another value of a parameter."""


def refused_parameter(message: str, names: list[str]) -> str | None:
    """Which of the parameters a refusal names by its words; FastAPI's say `body.seed`."""
    if REFUSES.search(message) is None:
        return None
    return next((name for name in names if re.search(rf"(?<![\w.]){name}(?!\w)|\bbody\.{name}\b", message)), None)


# Replies.

MAX_TOKENS = 100_000_000
"""A higher number of tokens for one call is no count."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold what a model thinks before its answer."""
_THOUGHT_PARTS = ("thinking", "reasoning")
"""Types of a content's parts that hold thoughts."""
_TRUNCATED = (TRUNCATED, "max_tokens", "max_output_tokens", "model_length", "length_limit", "token_limit")
"""Finish reasons of an answer that was cut at the limit."""
_FILTERED = ("safety", "prohibited_content", "blocklist", "sensitive")
"""Other names of OpenAI's finish reason `content_filter`."""
FAILED = ("error", "abort", "aborted", "cancelled")
"""Finish reasons of a text that its server did not write to the end."""


def finish_reason(reason: str) -> str:
    """A finish reason by OpenAI's name."""
    if reason.lower() in _TRUNCATED:
        return TRUNCATED
    return "content_filter" if reason.lower() in _FILTERED else reason


def content_text(content: object) -> str:
    """A message's content as a text. Mistral and others send a list of parts, some of which are thoughts."""
    if isinstance(content, list):
        parts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") not in _THOUGHT_PARTS]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def thoughts(message: Mapping[str, Any]) -> tuple[str, str]:
    """The field that holds a message's thoughts, and their text; empty where there are none."""
    for name in _THOUGHTS:
        found = message.get(name)
        if isinstance(found, str) and found.strip():
            return name, found
    content = message.get("content")
    parts = [p for p in content if isinstance(p, dict)] if isinstance(content, list) else []
    inner = "".join(content_text(p.get("thinking", p.get("text"))) for p in parts if p.get("type") in _THOUGHT_PARTS)
    return ("parts of type thinking", inner) if inner.strip() else ("", "")


def read_usage(completion: Mapping[str, Any], written: int, *, batch: bool) -> Usage:
    """The tokens of a call. A prompt that was not counted has 0 tokens (see `reply.complete_usage`).

    Args:
        completion: the body of a reply.
        written: about how many tokens its texts have, thoughts included; counts where the endpoint does not count.
        batch: whether the call went through the Batch API.
    """
    counts = next((place for place in _usage_places(completion) if isinstance(place, dict) and place), {})
    prompt = _first_count(counts, "prompt_tokens", "input_tokens")
    completed = _first_count(counts, "completion_tokens", "output_tokens")
    total = _first_count(counts, "total_tokens")
    cached = _detail(counts, "cached_tokens", "prompt", "input") or _first_count(
        counts, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"
    )
    thinking = _detail(counts, "reasoning_tokens", "completion", "output") or _first_count(counts, "reasoning_tokens")
    if prompt and cached > prompt:  # counted apart
        prompt += cached
    estimated = False
    if not completed:
        completed, estimated = max(written, thinking), written + thinking > 0
        if prompt and total > prompt:
            completed, estimated = total - prompt, False
    elif thinking > completed:  # counted apart
        completed += thinking
    if prompt and total > prompt + completed:  # thoughts that are billed and counted in the total alone
        completed = total - prompt
    if not prompt and total > completed:
        prompt = total - completed
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completed,
        cached_tokens=min(cached, prompt) if prompt else cached,
        batch=batch,
        estimated=estimated,
    )


def _usage_places(completion: Mapping[str, Any]) -> Iterator[object]:
    yield completion.get("usage")
    choices = completion.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        yield choice.get("usage") if isinstance(choice, dict) else None  # Moonshot
    groq = completion.get("x_groq")
    yield groq.get("usage") if isinstance(groq, dict) else None


def _detail(counts: Mapping[str, Any], name: str, *places: str) -> int:
    found = (counts.get(f"{place}_tokens_details") for place in places)
    return _first_count(next((details for details in found if isinstance(details, dict)), {}), name)


def _first_count(counts: Mapping[str, Any], *names: str) -> int:
    """The first of these that is a number of tokens, also as a text or with a decimal point; 0 where none is."""
    for name in names:
        value = counts.get(name)
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
            return value
    return 0


# Errors.

TOO_LONG = re.compile(
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

TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
"""The codes by which OpenAI and llama.cpp say the same."""
ANSWER_LIMIT = re.compile(r"completion tokens|output tokens", re.IGNORECASE)
"""How servers say that the limit on the answer is too high for the model, however short the dialogue."""
OVER_MINUTE_LIMIT = re.compile(r"request too large", re.IGNORECASE)
"""How servers say that one call is larger than the tokens of a minute: it does not pass later either."""
FILTER = re.compile(
    r"content[ _-]?(?:filter|policy|management|moderation)|moderation|flagged|usage polic|safety|prohibited_content"
    r"|blocked by|inspection_failed|inappropriate|high risk|exists risk|sensitive",
    re.IGNORECASE,
)
"""How content filters say that they refuse a prompt."""

SPENT_QUOTA = "insufficient_quota"
"""The code by which OpenAI says, with the status of a rate limit, that no money is left."""
MAX_READ = 4000
"""Characters of an error that are looked at."""
_TEXT_KEYS = ("message", "msg", "detail", "error", "errors", "error_msg", "error_description", "reason", "title", "raw")
"""Keys of an error's texts."""
_WRAPPER_KEYS = ("metadata", "innererror", "body", "response")
"""Keys under which gateways put the error of the server behind them."""


def error_texts(value: object, depth: int = 0) -> Iterator[str]:
    """What an error's body says, in its order. FastAPI's findings come with their place: `body.seed: ...`."""
    if depth > 6:
        return
    if isinstance(value, str):
        if value.strip():
            yield value[:MAX_READ]
    elif isinstance(value, list):
        for item in value[:5]:
            yield from error_texts(item, depth + 1)
    elif isinstance(value, dict):
        place = value.get("loc")
        prefix = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
        for key in _TEXT_KEYS:
            if key in value:
                yield from (prefix + text for text in error_texts(value[key], depth + 1))
        for key in _WRAPPER_KEYS:
            if isinstance(value.get(key), dict | list):
                yield from error_texts(value[key], depth + 1)


def error_names(error: Mapping[str, Any]) -> tuple[str, str]:
    """The code and the parameter that an error names; empty where it names none."""
    codes = [error.get(key) for key in ("code", "status", "error_type", "type")]  # from the most to the least exact
    code = next((code for code in codes if isinstance(code, str) and code), "")
    parameter = error.get("param")
    if isinstance(parameter, str) and parameter:
        return code, parameter
    details, message = error.get("detail"), error.get("message")
    if not isinstance(details, list) and isinstance(message, dict):
        details = message.get("detail")
    first = details[0] if isinstance(details, list) and details else None
    place = first.get("loc") if isinstance(first, dict) else None
    return code, str(place[-1]) if isinstance(place, list) and place else ""
