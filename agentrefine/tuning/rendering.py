"""From a conversation to token ids and labels, in one pass (paper, section 3.3: the masked loss).

The chat template is the tokenizer's own. A conversation's beginning must be the beginning of its tokens: only then does
the model read in play what it read in training. What the template writes is learned once (see `chat_format`); each
conversation is then compared with it character by character, and refused where it differs.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.game.conversation import Message
from agentrefine.params.tuning import Loss
from agentrefine.tuning.chat_template import APPENDING, OTHER_MODEL, chat_format, refusal, template_text
from agentrefine.tuning.masking import apply_loss

MASKED = -100
"""The label of a token that is not trained (torch's `ignore_index`)."""

OTHER_PROMPT = "a prompt alone has other tokens than at the beginning of its conversation"


class Span(NamedTuple):
    """A reply among the tokens: `ids[start:end]` is its text, without the white space around it, and its end-of-turn
    token; white space that the template writes before or after the text is part of it."""

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

    The messages are user and assistant in turn; what a user says after the last reply is left out. Turns that do not
    fit into `max_length` tokens are dropped whole, from the end.

    Raises:
        UserError: the chat template or the tokenizer does not keep prefixes, marks no end of a turn, or rewrites a
            text of this conversation; or the messages do not alternate.
    """
    chat = chat_format(tokenizer)
    chosen = _up_to_last_reply(apply_loss(messages, loss))
    if not chosen:
        return Rendered([], [], [], dropped_turns=0)
    text, replies = chat.lay_out(chosen)
    if template_text(tokenizer, chosen) != text:
        raise _rewritten(tokenizer, chosen)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    starts, ends = zip(*encoded["offset_mapping"], strict=True)
    spans = []
    for reply, message in zip(replies, chosen[1::2], strict=True):
        start = bisect_left(starts, reply.prompt_end)
        if start and ends[start - 1] > reply.prompt_end:
            raise refusal(tokenizer, "a token crosses the border between the prompt and the reply")
        if chat.opening_ids and tuple(ids[max(0, start - len(chat.opening_ids)) : start]) != chat.opening_ids:
            raise refusal(tokenizer, OTHER_PROMPT)
        after = bisect_left(starts, reply.end)
        end = next((i for i in range(after, len(ids)) if ids[i] == chat.end_of_turn), None)
        if end is None or text[reply.end : starts[end]].strip():
            raise refusal(tokenizer, "the end of a turn is not read as one token", OTHER_MODEL)
        spans.append(Span(start, end + 1, trained=bool(message.loss)))
    if not chat.opening_ids and prompt_ids(tokenizer, chosen[:-1]) != ids[: spans[-1].start]:
        raise refusal(tokenizer, OTHER_PROMPT)
    kept = [span for span in spans if max_length is None or span.end <= max_length]
    ids = ids[: kept[-1].end] if kept else []
    labels = [MASKED] * len(ids)
    for span in kept:
        if span.trained:
            labels[span.start : span.end] = ids[span.start : span.end]
    return Rendered(ids, labels, kept, dropped_turns=len(spans) - len(kept))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The tokens that the model continues in play: the conversation so far and the opening of the assistant's turn."""
    text = template_text(tokenizer, messages, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an assistant's turn in this tokenizer's chat template; generation stops at it."""
    return chat_format(tokenizer).end_of_turn


def _up_to_last_reply(messages: list[Message]) -> list[Message]:
    replies = [index for index, message in enumerate(messages) if message.role == "assistant"]
    chosen = messages[: replies[-1] + 1] if replies else []
    for index, message in enumerate(chosen):
        expected = "assistant" if index % 2 else "user"
        if message.role != expected:
            raise UserError(
                f"Message {index + 1} of a conversation ({message.content[:40]!r}) is of the {message.role}, but user "
                "and assistant must speak in turn, the user first; mend the data set."
            )
    return chosen


def _rewritten(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> UserError:
    """Names the text that the template does not write as it stands, if there is one."""
    text = template_text(tokenizer, messages)
    contents = [m.content.strip() for m in messages]
    thinking = next((content for content in contents if "think>" in content), None)
    changed = next((content for content in contents if content not in text), thinking)
    if changed is None:
        return refusal(tokenizer, "it writes something else around the texts of one conversation than of others")
    tags = ", which holds <think> tags" if changed == thinking else ""
    return refusal(
        tokenizer,
        f"it rewrites the text that begins {changed[:40]!r}{tags}",
        f"take such conversations out of the data set, or {APPENDING}",
    )
