"""From a conversation to token ids and labels by a chat template, and the check that it can be trained on.

The chat template is the tokenizer's own (paper, section 3.3: the masked loss). A conversation's beginning must be the
beginning of its tokens: only then does the model read in play what it read in training.

A template that can be trained on appends one message after the other: its output is the texts with fixed pieces between
them. The pieces are learned once for a tokenizer (`chat_format`). Each conversation is laid out with them, compared
with the template's output character by character, and refused where it differs. A probe of what makes rendering go
wrong is rendered before anything else, once for each tokenizer (`check_chat_template`).
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.files import packaged_text
from agentrefine.game.conversation import Message, opening, reply_text
from agentrefine.params.tuning import MaskPolicy
from agentrefine.tuning.masking import apply_mask_policy

MASKED = -100
"""The label of a token that is not trained (torch's `ignore_index`)."""

MAX_QUOTED = 100
"""Characters of a text that a remark quotes."""

VARIABLES = {"enable_thinking": False, "date_string": "26 Jul 2024", "current_date": "2024-07-26", "strftime_now": None}
"""The variables of templates, in training and in play alike.

A reply's thoughts stand in its text, so a thinking mode is off. Templates that write the date (Llama 3.2) are given
one, the default of Llama 3.1, and no clock: the same data must give the same tokens tomorrow.
"""

APPENDING = "set base_model.chat_template in params.yaml to a jinja file that appends one message after the other"
ANOTHER_MODEL = "choose another model"
_IN_A_COPY = " in a copy of the template, and set base_model.chat_template in params.yaml to that file"

Fault = Literal[
    "no_default",
    "fails",
    "writes_todays_date",
    "only_last_reply_thinks",
    "rewrites_earlier_message",
    "rewrites_user",
    "rewrites_reply",
    "drops_thoughts",
    "rewrites_one_text",
    "rewrites_around_texts",
    "prompt_opens_thinking",
    "prompt_opens_otherwise",
    "text_before_reply",
    "no_end_of_turn",
    "two_ends_of_turn",
    "end_of_turn_split",
    "token_crosses_border",
    "other_prompt_tokens",
    "other_text_decoded",
    "begins_twice",
]
"""What a chat template or its tokenizer does that cannot be trained on: the value `fault` of the error."""

_OTHER_TOKENS: tuple[Fault, str] = (
    "other_prompt_tokens",
    "a prompt alone has other tokens than at the beginning of its conversation",
)
_EARLIER: tuple[Fault, str] = (
    "rewrites_earlier_message",
    "it writes an earlier message in another way once a later one follows",
)
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

    def lay_out(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation of user and assistant in turn that ends with a reply, and where its replies are.

        A reply loses the white space around it: most templates do that, and before a reply it would merge with the
        prompt's last token.

        Returns:
            The text, and for each reply where its prompt ends and where its own text ends, in characters.
        """
        text, replies = self.head, []
        for index, message in enumerate(messages):
            if message.role == "user":
                text += (message.content.strip() if self.trims_users else message.content) + self.opening
            else:
                prompt_end = len(text)
                text += self.lead + message.content.strip()
                replies.append((prompt_end, len(text)))
                text += self.closing if index < len(messages) - 1 else self.tail
        return text, replies


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
        raise refusal(tokenizer, "no_default", "it has no default one") from error


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
            remedy = "write a fixed date in place of strftime_now(...)" + _IN_A_COPY
            raise refusal(tokenizer, "writes_todays_date", reason, remedy) from error
        reported = " ".join(str(error).split())
        raise refusal(tokenizer, "fails", f"it fails: {reported}", reported=reported) from error
    return str(text)


def refusal(
    tokenizer: PreTrainedTokenizerBase, fault: Fault, reason: str, remedy: str = APPENDING, **values: object
) -> UserError:
    """The error that names the model, what its chat template does and what to do."""
    name = tokenizer.name_or_path or "the tokenizer"
    message = f"The chat template of {name} cannot be trained on: {reason}; {remedy}."
    return UserError("template_untrainable", message, model=name, fault=fault, **values)


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
        reason = "it writes a thinking block into the last reply only and drops it from earlier ones"
        raise refusal(tokenizer, "only_last_reply_thinks", reason)
    if len(set(openings)) > 1 or len(set(closings)) > 1:
        raise refusal(tokenizer, *_EARLIER)
    for turn in range(0, len(messages), 2):
        prompt = template_text(tokenizer, messages[: turn + 1], add_generation_prompt=True)
        if not prompt.startswith(full[: places[turn][1]]):
            raise refusal(tokenizer, *_EARLIER)
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
        position = places[-1][1] if places else 0
        trimmed = full.find(message.content, position) < 0
        content = message.content.strip() if trimmed else message.content
        begin = full.find(content, position)
        if begin < 0:
            raise refusal(tokenizer, *_missing(message, full))
        trims_users = trims_users or trimmed
        places.append((begin, begin + len(content)))
    return places, trims_users


def _missing(message: Message, full: str) -> tuple[Fault, str]:
    if message.role == "user":
        return "rewrites_user", "it leaves out or rewrites the text of a user"
    if message.content.splitlines()[-1] in full:
        return "drops_thoughts", "it drops the thoughts of earlier replies"
    return "rewrites_reply", "it leaves out or rewrites the text of a reply"


def _check_opening(tokenizer: PreTrainedTokenizerBase, prompt: str, conversation: str) -> None:
    """What opens a reply in the prompt must open it in the conversation too, with white space after it at the most."""
    if prompt == conversation or (conversation.startswith(prompt) and not conversation[len(prompt) :].strip()):
        return
    if "think" in prompt and "think" not in conversation:
        reason = "its prompt opens a thinking block that it leaves out of the conversation"
        remedy = "take it out of add_generation_prompt" + _IN_A_COPY
        raise refusal(tokenizer, "prompt_opens_thinking", reason, remedy)
    if not conversation.startswith(prompt):
        reason = "its prompt opens a reply in another way than the conversation"
        raise refusal(tokenizer, "prompt_opens_otherwise", reason)
    between = conversation[len(prompt) :].strip()
    reason = f"it writes {between!r} between the prompt and the reply, which the model would not be asked for in play"
    remedy = "write it under add_generation_prompt too" + _IN_A_COPY
    raise refusal(tokenizer, "text_before_reply", reason, remedy, found=between)


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
        remedy = "end each reply with eos_token" + _IN_A_COPY
        raise refusal(tokenizer, "no_end_of_turn", reason, remedy, found=written[:20])
    if found[0] != found[1]:
        reason = f"it ends the last reply with {found[1]} and all earlier ones with {found[0]}"
        raise refusal(tokenizer, "two_ends_of_turn", reason, found=found)
    return int(tokenizer.convert_tokens_to_ids(found[0]))


def _opening_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, opening: str) -> tuple[int, ...]:
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    added, begin = tokenizer.added_tokens_decoder, len(prompt) - len(opening)
    tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    last = max((i for i, (token, span) in enumerate(tokens) if token in added and span[0] >= begin), default=None)
    return () if last is None else tuple(encoded["input_ids"][last:])


class Span(NamedTuple):
    """A reply among the tokens: `ids[start:end]` is its text with the white space that the template writes around it,
    and its end-of-turn token."""

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
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], train_on: MaskPolicy, max_length: int | None = None
) -> Rendered:
    """The ids and labels of the turns that the mask policy `train_on` trains.

    The messages are user and assistant in turn; what a user says after the last reply is left out. Turns that do not
    fit into `max_length` tokens are dropped whole, from the end.

    Raises:
        UserError: the chat template or the tokenizer does not keep prefixes, marks no end of a turn, or rewrites a
            text of this conversation; or the messages do not alternate.
    """
    chat = chat_format(tokenizer)
    chosen = _up_to_last_reply(apply_mask_policy(messages, train_on))
    if not chosen:
        return Rendered([], [], [], dropped_turns=0)
    text, replies = chat.lay_out(chosen)
    if template_text(tokenizer, chosen) != text:
        raise _rewritten(tokenizer, chosen)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    starts, ends = zip(*encoded["offset_mapping"], strict=True)
    spans = []
    for (prompt_end, text_end), message in zip(replies, chosen[1::2], strict=True):
        start = bisect_left(starts, prompt_end)
        if start and ends[start - 1] > prompt_end:
            reason = "a token crosses the border between the prompt and the reply"
            raise refusal(tokenizer, "token_crosses_border", reason)
        if chat.opening_ids and tuple(ids[max(0, start - len(chat.opening_ids)) : start]) != chat.opening_ids:
            raise refusal(tokenizer, *_OTHER_TOKENS)
        after = bisect_left(starts, text_end)
        end = next((i for i in range(after, len(ids)) if ids[i] == chat.end_of_turn), None)
        if end is None or text[text_end : starts[end]].strip():
            reason = "the end of a turn is not read as one token"
            raise refusal(tokenizer, "end_of_turn_split", reason, ANOTHER_MODEL)
        spans.append(Span(start, end + 1, trained=bool(message.loss)))
    if not chat.opening_ids and prompt_ids(tokenizer, chosen[:-1]) != ids[: spans[-1].start]:
        raise refusal(tokenizer, *_OTHER_TOKENS)
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
                "bad_record",
                f"Message {index + 1} of a conversation ({message.content[:40]!r}) is of the {message.role}, but user "
                "and assistant must speak in turn, the user first; correct the data set.",
                turn=index + 1,
                role=message.role,
            )
    return chosen


def _rewritten(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> UserError:
    """Names the text that the template does not write as it stands, if there is one."""
    text = template_text(tokenizer, messages)
    contents = [m.content.strip() for m in messages]
    thinking = next((content for content in contents if "think>" in content), None)
    changed = next((content for content in contents if content not in text), thinking)
    if changed is None:
        reason = "it writes something else around the texts of one conversation than of others"
        return refusal(tokenizer, "rewrites_around_texts", reason)
    tags = ", which holds <think> tags" if changed == thinking else ""
    return refusal(
        tokenizer,
        "rewrites_one_text",
        f"it rewrites the text that begins {changed[:40]!r}{tags}",
        f"take such conversations out of the data set, or {APPENDING}",
        begins=changed[:40],
        thinks=changed == thinking,
    )


def probe() -> list[Message]:
    """A game with what makes rendering go wrong: blank lines, white space around texts, digits, letters beyond ASCII,
    text that looks like markup, and a mistake."""
    return [
        *opening("You play a game.\n\n\nActions:\ntake {item} : take it\n", "fetch 1,234 keys", "You are in the café."),
        Message(role="assistant", content=reply_text("two lamps,  3 boxes: é ñ 中文 🔑", "look in box 10"), loss=True),
        Message(role="user", content=" \n The box [1] is shut.\n\n"),
        Message(role="assistant", content=reply_text("it is open", "take key"), loss=False),
        Message(role="user", content="Error: <b>nothing</b> happened & 50% is left\t."),
        Message(role="assistant", content=reply_text("i was wrong.\n\n- open it first", "open box 10"), loss=True),
        Message(role="user", content="The box is open."),
        Message(role="assistant", content=f"  {reply_text('here it is', 'take key 12 from box 10')} \n", loss=True),
    ]


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Refuse a tokenizer or chat template that a conversation cannot be trained with; checked once for each.

    The beginning of a conversation must be the beginning of its text and of its tokens at every turn, the trained
    tokens must decode to the texts and end with a token that ends a turn, for every mask policy.

    Returns:
        What is allowed and worth knowing, one sentence each: a default system prompt, a fixed date, trimmed texts.

    Raises:
        UserError: names what the template does and what to do.
    """
    return list(_checked(tokenizer, template_of(tokenizer)))


@lru_cache(maxsize=8)
def _checked(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, ...]:
    try:
        _check(tokenizer)
    except UserError as error:
        twin = _training_twin(tokenizer, template)
        if twin is None:
            raise
        message = f"{error} {twin}, which trl ships for training, passes: name it there."
        raise UserError(error.code, message, **error.values, twin=twin.name) from error
    return tuple(_remarks(tokenizer, chat_format(tokenizer)))


def _check(tokenizer: PreTrainedTokenizerBase) -> None:
    for train_on in get_args(MaskPolicy):
        messages = apply_mask_policy(probe(), train_on)
        rendered = render(tokenizer, messages, train_on)
        for turn, span in enumerate(rendered.spans):
            if prompt_ids(tokenizer, messages[: 2 * turn + 1]) != rendered.ids[: span.start]:
                raise refusal(tokenizer, *_OTHER_TOKENS)
            text = messages[2 * turn + 1].content.strip()
            written = rendered.ids[span.start : span.end - 1]
            decoded = tokenizer.decode(written, clean_up_tokenization_spaces=False).strip()
            if decoded != text:
                at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), len(decoded))
                near = slice(max(0, at - 10), at + 10)
                reason = f"its tokens decode to {decoded[near]!r} where the text is {text[near]!r}"
                values = {"found": decoded[near], "expected": text[near]}
                raise refusal(tokenizer, "other_text_decoded", reason, ANOTHER_MODEL, **values)
    bos = tokenizer.bos_token
    if bos and chat_format(tokenizer).head.startswith(bos * 2):
        raise refusal(tokenizer, "begins_twice", f"it begins with {bos} twice", "write it once" + _IN_A_COPY)


def _remarks(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> list[str]:
    remarks = []
    head = chat.head
    for token in tokenizer.added_tokens_decoder.values():
        head = head.replace(token.content, " ")
    text = " ".join(head.split())
    if text.count(" ") > 1:
        shown = f"{text[:MAX_QUOTED]}..." if len(text) > MAX_QUOTED else text
        remarks.append(f"Every conversation begins with the template's own text, which is not trained: {shown!r}.")
    if any(str(VARIABLES[name]) in chat.head for name in ("date_string", "current_date")):
        remarks.append("The template dates a conversation; the date is fixed, so that tokens do not change by the day.")
    if chat.trims_users:
        remarks.append("The template takes white space off the ends of texts.")
    bos = tokenizer.bos_token
    if bos and not chat.head.startswith(bos) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        remarks.append(f"The template writes no {bos}, with which this tokenizer begins a text; most models miss it.")
    if chat.end_of_turn != tokenizer.eos_token_id:
        end = tokenizer.convert_ids_to_tokens(chat.end_of_turn)
        remarks.append(f"A reply ends with {end}, not with {tokenizer.eos_token}: a server must stop there too.")
    thoughts = "<think>\nthe box is shut\n</think>\n\n" + reply_text("i open it", "open box")
    thinking = [Message(role="user", content="a"), Message(role="assistant", content=thoughts)] * 2
    if template_text(tokenizer, thinking) != chat.lay_out(thinking)[0]:
        remarks.append("The template rewrites replies that hold <think> tags: such a conversation is refused.")
    return remarks


def _training_twin(tokenizer: PreTrainedTokenizerBase, template: str) -> Path | None:
    """TRL's variant of this template for training, if there is one and it passes with this tokenizer."""
    folder = Path(str(resources.files("trl"))) / "chat_templates"
    for twin in sorted(folder.glob("*_training.jinja")):
        original = twin.with_name(twin.name.replace("_training", ""))
        if not original.is_file() or original.read_text(encoding="utf-8").strip() != template.strip():
            continue
        own, tokenizer.chat_template = tokenizer.chat_template, twin.read_text(encoding="utf-8")
        try:
            _check(tokenizer)
        except UserError:
            return None
        else:
            return twin
        finally:
            tokenizer.chat_template = own
    return None
