"""From a conversation to token ids and labels, in one pass, and the check that a chat template can be trained on.

The chat template is the tokenizer's own (paper, section 3.3: the masked loss). A conversation's beginning must be the
beginning of its tokens: only then does the model read in play what it read in training. What the template writes is
learned once (`chat_format`); each conversation is then compared with it character by character, and refused where it
differs. A probe of what makes rendering go wrong is rendered before anything else, once for each tokenizer.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.game.conversation import Message, opening, reply_text
from agentrefine.params.tuning import MaskPolicy
from agentrefine.tuning.chat_template import (
    APPENDING,
    OTHER_MODEL,
    VARIABLES,
    ChatFormat,
    chat_format,
    refusal,
    template_of,
    template_text,
)
from agentrefine.tuning.masking import apply_mask_policy

MASKED = -100
"""The label of a token that is not trained (torch's `ignore_index`)."""

MAX_QUOTED = 100
"""Characters of a text that a remark quotes."""

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
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], train_on: MaskPolicy, max_length: int | None = None
) -> Rendered:
    """The ids and labels that `loss` trains on.

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
        return refusal(tokenizer, "it writes something else around the texts of one conversation than of others")
    tags = ", which holds <think> tags" if changed == thinking else ""
    return refusal(
        tokenizer,
        f"it rewrites the text that begins {changed[:40]!r}{tags}",
        f"take such conversations out of the data set, or {APPENDING}",
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
    """Refuse a tokenizer or chat template that a conversation cannot be trained with; done once for each.

    The beginning of a conversation must be the beginning of its text and of its tokens at every turn, the trained
    tokens must decode to the texts and end with a token that ends a turn, for every loss.

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
        raise UserError(
            error.code, f"{error} {twin}, which trl ships for training, passes: name it there.", **error.values
        ) from error
    return tuple(_remarks(tokenizer, chat_format(tokenizer)))


def _check(tokenizer: PreTrainedTokenizerBase) -> None:
    for train_on in get_args(MaskPolicy):
        messages = apply_mask_policy(probe(), train_on)
        rendered = render(tokenizer, messages, train_on)
        for turn, span in enumerate(rendered.spans):
            if prompt_ids(tokenizer, messages[: 2 * turn + 1]) != rendered.ids[: span.start]:
                raise refusal(tokenizer, OTHER_PROMPT)
            text = messages[2 * turn + 1].content.strip()
            written = rendered.ids[span.start : span.end - 1]
            decoded = tokenizer.decode(written, clean_up_tokenization_spaces=False).strip()
            if decoded != text:
                at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), len(decoded))
                found, expected = decoded[max(0, at - 10) : at + 10], text[max(0, at - 10) : at + 10]
                raise refusal(tokenizer, f"its tokens decode to {found!r} where the text is {expected!r}", OTHER_MODEL)
    bos = tokenizer.bos_token
    if bos and chat_format(tokenizer).head.startswith(bos * 2):
        remedy = "write it once in a copy of the template, and set base_model.chat_template in params.yaml to that file"
        raise refusal(tokenizer, f"it begins with {bos} twice", remedy)


def _remarks(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> list[str]:
    remarks = []
    head = chat.head
    for token in tokenizer.added_tokens_decoder.values():
        head = head.replace(token.content, " ")
    words = head.split()
    if len(words) > 2:
        text = " ".join(words)
        shown = f"{text[:MAX_QUOTED]}..." if len(text) > MAX_QUOTED else text
        remarks.append(f"Every conversation begins with the template's own text, which is not trained: {shown!r}.")
    dates = [str(VARIABLES[name]) for name in ("date_string", "current_date")]
    if any(date in chat.head for date in dates):
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
