"""The check of a tokenizer and its chat template before anything is tuned, on a conversation that is hard to render."""

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import get_args

from transformers import PreTrainedTokenizerBase

from agentrefine.conversation import Message, opening, reply_text
from agentrefine.errors import UserError
from agentrefine.params.tuning import Loss
from agentrefine.tuning.chat_format import (
    OTHER_MODEL,
    VARIABLES,
    ChatFormat,
    chat_format,
    refusal,
    template_of,
    template_text,
)
from agentrefine.tuning.masking import apply_loss
from agentrefine.tuning.rendering import OTHER_PROMPT, prompt_ids, render

SHOWN = 100
"""Characters of a text that a remark or an error quotes at the most."""

_THINKING = "<think>\nthe box is shut\n</think>\n\n" + reply_text("i open it", "open box")


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
        raise UserError(f"{error} {twin}, which trl ships for training, passes: name it there.") from error
    return tuple(_remarks(tokenizer, chat_format(tokenizer)))


def _check(tokenizer: PreTrainedTokenizerBase) -> None:
    for loss in get_args(Loss):
        _check_tokens(tokenizer, apply_loss(probe(), loss), loss)
    bos = tokenizer.bos_token
    if bos and chat_format(tokenizer).head.startswith(bos * 2):
        remedy = "write it once in a copy of the template, and set base_model.chat_template in params.yaml to that file"
        raise refusal(tokenizer, f"it begins with {bos} twice", remedy)


def _check_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], loss: Loss) -> None:
    rendered = render(tokenizer, messages, loss)
    for turn, span in enumerate(rendered.spans):
        if prompt_ids(tokenizer, messages[: 2 * turn + 1]) != rendered.ids[: span.start]:
            raise refusal(tokenizer, OTHER_PROMPT)
        text = messages[2 * turn + 1].content.strip()
        decoded = tokenizer.decode(rendered.ids[span.start : span.end - 1], clean_up_tokenization_spaces=False).strip()
        if decoded != text:
            at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), len(decoded))
            found, expected = decoded[max(0, at - 10) : at + 10], text[max(0, at - 10) : at + 10]
            raise refusal(tokenizer, f"its tokens decode to {found!r} where the text is {expected!r}", OTHER_MODEL)


def _remarks(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> list[str]:
    remarks = []
    words = chat.head
    for token in tokenizer.added_tokens_decoder.values():
        words = words.replace(token.content, " ")
    words = " ".join(words.split())
    if len(words.split()) > 2:
        shown = f"{words[:SHOWN]}..." if len(words) > SHOWN else words
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
    thinking = [Message(role="user", content="a"), Message(role="assistant", content=_THINKING)] * 2
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
