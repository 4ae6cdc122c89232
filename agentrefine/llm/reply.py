"""The answer in a chat completion, and its tokens: an odd count must not cost a paid answer."""

import json

from agentrefine.llm import quirks
from agentrefine.llm.completion import CUT, NO_ANSWER, Answer, Request, Usage, only_in
from agentrefine.llm.failures import CallError, read_error_inside

BYTES_PER_TOKEN = 3
"""Bytes of a text for each token, for estimates. English has four to five, JSON and other languages about three."""
NO_USAGE = Usage(prompt_tokens=0, completion_tokens=0)
"""The tokens of a call that had no answer."""


def read_reply(body: bytes | str, *, batch: bool = False) -> Answer:
    """The answer in a body in the form of OpenAI's API.

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
    if named == reason != CUT and field and not text.strip():
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
    if estimated and answer.finish_reason == CUT:
        completion = max(completion, request.max_tokens)
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "estimated": estimated}
    return answer._replace(usage=usage.model_copy(update=counted))


def _estimated_tokens(*texts: str) -> int:
    """About how many tokens texts have; 0 only for no text at all."""
    return -(-sum(len(text.encode("utf-8", "replace")) for text in texts) // BYTES_PER_TOKEN)


def _storable(text: str) -> str:
    """The text with lone halves of Unicode pairs, which no file can hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
