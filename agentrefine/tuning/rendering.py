"""From a conversation to token ids and labels, in one pass (paper, section 3.3: the masked loss).

The chat template is the tokenizer's own. A conversation's beginning must be the beginning of its tokens: only then does
the model read in play what it read in training. Templates that break this are refused.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from agentrefine.conversation import Message
from agentrefine.errors import UserError
from agentrefine.params.tuning import Loss
from agentrefine.tuning.masking import apply_loss

MASKED = -100
"""The label of a token that is not trained (torch's `ignore_index`)."""


class Span(NamedTuple):
    """An assistant's turn among the tokens: `ids[start:end]` is its text with its end-of-turn token."""

    start: int
    end: int
    trained: bool


class Rendered(NamedTuple):
    """A conversation as tokens.

    Attributes:
        ids: token ids, up to and with the last kept turn's end-of-turn token.
        labels: the id where the token is trained, -100 elsewhere; as long as `ids`.
        spans: the assistant's turns in order, the acknowledgement included.
        dropped_turns: turns left out at the end because the conversation is longer than `max_length`.
    """

    ids: list[int]
    labels: list[int]
    spans: list[Span]
    dropped_turns: int

    @property
    def trained_tokens(self) -> int:
        """How many tokens are trained."""
        return sum(span.end - span.start for span in self.spans if span.trained)


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], loss: Loss, max_length: int | None = None
) -> Rendered:
    """The ids and labels that `loss` trains on.

    Turns that do not fit into `max_length` tokens are dropped whole, from the end.

    Raises:
        UserError: the chat template or the tokenizer does not keep prefixes, or marks no end of a turn.
    """
    chosen = apply_loss(messages, loss)
    full = _template(tokenizer, chosen)
    encoded = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    special = frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    tokens = _Tokens(full, ids, encoded["offset_mapping"], special | {tokenizer.eos_token_id})
    replies = [index for index, m in enumerate(chosen) if m.role == "assistant"]
    spans = [_span(tokenizer, chosen, index, tokens) for index in replies]
    if replies and prompt_ids(tokenizer, chosen[: replies[-1]]) != ids[: spans[-1].start]:
        raise _broken(tokenizer, "a prompt alone has other tokens than at the beginning of its conversation")
    kept = [span for span in spans if max_length is None or span.end <= max_length]
    ids = ids[: kept[-1].end] if kept else []
    labels = [MASKED] * len(ids)
    for span in kept:
        if span.trained:
            labels[span.start : span.end] = ids[span.start : span.end]
    return Rendered(ids, labels, kept, dropped_turns=len(spans) - len(kept))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The tokens that the model continues in play: the conversation so far and the opening of the assistant's turn."""
    text = _template(tokenizer, messages, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an assistant's turn in this tokenizer's chat template; generation stops at it."""
    probe = [Message(role="user", content="Hello"), Message(role="assistant", content="OK")]
    rendered = render(tokenizer, probe, "refinement")
    return rendered.ids[-1]


class _Tokens(NamedTuple):
    """A rendered conversation: its text, its ids, where each lies in the text, and which ids may end a turn."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    special: frozenset[int]


def _span(tokenizer: PreTrainedTokenizerBase, messages: list[Message], index: int, tokens: _Tokens) -> Span:
    """Where the assistant's message `index` stands, after checking that its prompt is the beginning of all."""
    content = messages[index].content
    prompt = _template(tokenizer, messages[:index], add_generation_prompt=True)
    begin = tokens.text.find(content, len(prompt))
    if not tokens.text.startswith(prompt) or begin < 0 or tokens.text[len(prompt) : begin].strip():
        raise _broken(tokenizer, "it writes an earlier message in another way once a later one follows")
    first = bisect_left(tokens.offsets, len(prompt), key=lambda offset: offset[0])
    if first and tokens.offsets[first - 1][1] > len(prompt):
        raise _broken(tokenizer, "a token crosses the border between the prompt and the assistant's text")
    tail = begin + len(content)
    after = bisect_left(tokens.offsets, tail, key=lambda offset: offset[0])
    end = next((i for i in range(after, len(tokens.ids)) if tokens.ids[i] in tokens.special), None)
    if end is None or tokens.text[tail : tokens.offsets[end][0]].strip():
        raise _broken(tokenizer, "no special token ends the assistant's turn, so the model could not learn to stop")
    return Span(first, end + 1, trained=bool(messages[index].loss))


def _template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> str:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise _broken(tokenizer, f"it fails: {' '.join(str(error).split())}") from error
    return str(text)


def _broken(tokenizer: PreTrainedTokenizerBase, reason: str) -> UserError:
    return UserError(
        f"The chat template of {tokenizer.name_or_path or 'the tokenizer'} cannot be trained on: {reason}; "
        "set base_model.chat_template in params.yaml to a jinja file that appends one message after the other."
    )
