"""What a chat template writes around the texts of a conversation, learned from a probe.

A template that can be trained on appends one message after the other: its output is the texts with fixed pieces between
them. The pieces are learned once for a tokenizer. After a conversation can be laid out without asking the template
again and again, and one comparison with the template's output shows where every text stands in it.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.files import packaged_text
from agentrefine.game.conversation import Message, reply_text

VARIABLES = {"enable_thinking": False, "date_string": "26 Jul 2024", "current_date": "2024-07-26", "strftime_now": None}
"""The variables of templates, in training and in play alike.

A reply's thoughts stand in its text, so a thinking mode is off. Templates that write the date (Llama 3.2) are given
one, the default of Llama 3.1, and no clock: the same data must give the same tokens tomorrow.
"""

APPENDING = "set base_model.chat_template in params.yaml to a jinja file that appends one message after the other"
OTHER_MODEL = "choose another model"
_IN_A_COPY = " in a copy of the template, and set base_model.chat_template in params.yaml to that file"

_EARLIER = "it writes an earlier message in another way once a later one follows"
_QUESTIONS = ["First question?", "\n Second question? \n\n", "Third question?"]
_REPLIES = [
    reply_text("the lamp may be in the box", "look in box"),
    reply_text("that failed : the box is shut", "open box"),
    reply_text("the key fits", "take lamp"),
]
"""The probe's replies, each with thoughts, which some templates drop from earlier turns."""


def own_chat_template() -> str:
    """Our chat template, for models that have none: role marker, text, end-of-turn token."""
    return packaged_text("agentrefine.tuning", "chat_template.jinja").strip()


class ReplySpan(NamedTuple):
    """Where a reply stands in a laid out conversation, in characters.

    Attributes:
        prompt_end: where the prompt ends and the model would write.
        end: where the reply's text ends and its end-of-turn token follows, perhaps after white space.
    """

    prompt_end: int
    end: int


class ChatFormat(NamedTuple):
    """The pieces that a chat template writes around the texts of a conversation.

    Attributes:
        head: before the first user's text.
        opening: from the end of a user's text to the end of the prompt.
        lead: white space between the prompt and the reply.
        closing: from the end of a reply to the next user's text.
        tail: after the last reply.
        trims_users: whether users' texts lose the white space around them.
        end_of_turn: the id of the token that ends a reply.
        opening_ids: the prompt's last tokens, from the last added token in `opening` on; empty where it holds none.
    """

    head: str
    opening: str
    lead: str
    closing: str
    tail: str
    trims_users: bool
    end_of_turn: int
    opening_ids: tuple[int, ...]

    def lay_out(self, messages: Sequence[Message]) -> tuple[str, list[ReplySpan]]:
        """The text of a conversation of user and assistant in turn that ends with a reply, and where its replies are.

        A reply loses the white space around it: most templates do that, and before a reply it would merge with the
        prompt's last token.
        """
        parts, length, replies = [self.head], len(self.head), []
        for index, message in enumerate(messages):
            if message.role == "user":
                written = [message.content.strip() if self.trims_users else message.content, self.opening]
            else:
                end = length + len(self.lead) + len(message.content.strip())
                replies.append(ReplySpan(prompt_end=length, end=end))
                after = self.closing if index < len(messages) - 1 else self.tail
                written = [self.lead, message.content.strip(), after]
            parts += written
            length += sum(map(len, written))
        return "".join(parts), replies


def chat_format(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """What this tokenizer's chat template writes; learned once for a tokenizer and template.

    Raises:
        UserError: the template does not append one message after the other, or ends no turn with a token.
    """
    return _learn(tokenizer, template_of(tokenizer))


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template for conversations without tools.

    Raises:
        UserError: it has none, or several and none of them for this.
    """
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise refusal(tokenizer, "it has no default one") from error


def template_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> str:
    """What the chat template makes of a conversation; replies go in without the white space around them.

    Raises:
        UserError: the template fails.
    """
    turns = [{"role": m.role, "content": m.content if m.role == "user" else m.content.strip()} for m in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt, **VARIABLES
        )
    except (TemplateError, TypeError, ValueError) as error:
        if isinstance(error, TypeError) and "strftime_now" in template_of(tokenizer):
            reason = "it writes today's date, so that the same data would be other tokens tomorrow"
            raise refusal(tokenizer, reason, "write a fixed date in place of strftime_now(...)" + _IN_A_COPY) from error
        raise refusal(tokenizer, f"it fails: {' '.join(str(error).split())}") from error
    return str(text)


def refusal(tokenizer: PreTrainedTokenizerBase, reason: str, remedy: str = APPENDING) -> UserError:
    """The error that names the model, what its chat template does and what to do."""
    name = tokenizer.name_or_path or "the tokenizer"
    return UserError(
        "template_untrainable", f"The chat template of {name} cannot be trained on: {reason}; {remedy}.", model=name
    )


@lru_cache(maxsize=8)
def _learn(tokenizer: PreTrainedTokenizerBase, _template: str) -> ChatFormat:
    messages = [
        Message(role=role, content=content)
        for question, reply in zip(_QUESTIONS, _REPLIES, strict=True)
        for role, content in (("user", question), ("assistant", reply))
    ]
    full = template_text(tokenizer, messages)
    places, trims_users = _places(tokenizer, full, messages)
    gaps = [full[end:begin] for (_, end), (begin, _) in pairwise(places)]
    openings, closings = gaps[::2], gaps[1::2]
    if len(set(openings)) > 1 and any("think" in gap for gap in openings):
        raise refusal(tokenizer, "it writes a thinking block into the last reply only and drops it from earlier ones")
    if len(set(openings)) > 1 or len(set(closings)) > 1:
        raise refusal(tokenizer, _EARLIER)
    for turn in range(0, len(messages), 2):
        prompt = template_text(tokenizer, messages[: turn + 1], add_generation_prompt=True)
        if not prompt.startswith(full[: places[turn][1]]):
            raise refusal(tokenizer, _EARLIER)
        opening = prompt[places[turn][1] :]
        _check_opening(tokenizer, opening, openings[0])
    tail = full[places[-1][1] :]
    return ChatFormat(
        head=full[: places[0][0]],
        opening=opening,
        lead=openings[0][len(opening) :],
        closing=closings[0],
        tail=tail,
        trims_users=trims_users,
        end_of_turn=_end_of_turn(tokenizer, closings[0], tail),
        opening_ids=_opening_ids(tokenizer, prompt, opening),
    )


def _places(
    tokenizer: PreTrainedTokenizerBase, full: str, messages: Sequence[Message]
) -> tuple[list[tuple[int, int]], bool]:
    """Where each message's text begins and ends, and whether those of users are trimmed."""
    places: list[tuple[int, int]] = []
    trims_users = False
    for message in messages:
        content, position = message.content, places[-1][1] if places else 0
        begin = full.find(content, position)
        if begin < 0:
            content = content.strip()
            begin = full.find(content, position)
            trims_users = True
        if begin < 0:
            raise refusal(tokenizer, _missing(message, full))
        places.append((begin, begin + len(content)))
    return places, trims_users


def _missing(message: Message, full: str) -> str:
    if message.role == "user":
        return "it leaves out or rewrites the text of a user"
    if message.content.splitlines()[-1] in full:
        return "it drops the thoughts of earlier replies"
    return "it leaves out or rewrites the text of a reply"


def _check_opening(tokenizer: PreTrainedTokenizerBase, prompt: str, conversation: str) -> None:
    """What opens a reply in the prompt must open it in the conversation too, with white space after it at the most."""
    if prompt == conversation or (conversation.startswith(prompt) and not conversation[len(prompt) :].strip()):
        return
    if "think" in prompt and "think" not in conversation:
        reason = "its prompt opens a thinking block that it leaves out of the conversation"
        raise refusal(tokenizer, reason, "take it out of add_generation_prompt" + _IN_A_COPY)
    if not conversation.startswith(prompt):
        raise refusal(tokenizer, "its prompt opens a reply in another way than the conversation")
    between = conversation[len(prompt) :].strip()
    reason = f"it writes {between!r} between the prompt and the reply, which the model would not be asked for in play"
    raise refusal(tokenizer, reason, "write it under add_generation_prompt too" + _IN_A_COPY)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, closing: str, tail: str) -> int:
    """The token that ends a reply, the last one as all others."""
    candidates = {token.content for token in tokenizer.added_tokens_decoder.values()} | {str(tokenizer.eos_token)}
    found = [
        max((token for token in candidates if token.strip() and text.startswith(token)), key=len, default="")
        for text in (closing.lstrip(), tail.lstrip())
    ]
    if not all(found):
        written = (tail if found[0] else closing).strip()
        after = f"it writes {written[:20]!r} there, which is no token of its own" if written else "nothing stands there"
        reason = f"no special token ends a reply, so the model could not learn to stop ({after})"
        raise refusal(tokenizer, reason, "end each reply with eos_token" + _IN_A_COPY)
    if found[0] != found[1]:
        raise refusal(tokenizer, f"it ends the last reply with {found[1]} and all earlier ones with {found[0]}")
    return int(tokenizer.convert_tokens_to_ids(found[0]))


def _opening_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, opening: str) -> tuple[int, ...]:
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    added, begin = tokenizer.added_tokens_decoder, len(prompt) - len(opening)
    tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    last = max((i for i, (token, span) in enumerate(tokens) if token in added and span[0] >= begin), default=None)
    return () if last is None else tuple(encoded["input_ids"][last:])
