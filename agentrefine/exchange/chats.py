"""Chats of other data sets as samples: which keys hold what, and how their turns become human and gpt in turn."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from agentrefine.conversation import PublishedMessage, Sample
from agentrefine.errors import UserError
from agentrefine.exchange.records import Record, read_records
from agentrefine.files import short_hash

Sender = Literal["human", "gpt", "system"]

SENDERS: dict[str, Sender] = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "chatgpt": "gpt",
    "bing": "gpt",
    "bard": "gpt",
    "model": "gpt",
    "system": "system",
}
"""Who speaks, by the names in use. A chat with another role (a tool) is dropped: a sample has no place for it."""


class Layout(NamedTuple):
    """The keys of a format: of a chat's id, of its list of messages, and of a message's role and text."""

    id: str
    messages: str
    role: str
    text: str


class Dropped(NamedTuple):
    """A chat that cannot become a sample, and by which rule."""

    rule: str


class Turn(NamedTuple):
    """A message of a foreign chat. `loss` is None where the data set does not say."""

    sender: Sender
    text: str
    loss: bool | None


def read_chats(file: Path, layouts: Sequence[Layout], dropped: Counter[str] | None = None) -> Iterator[Sample]:
    """The chats of a file as samples; those that cannot become one are left out and counted in `dropped` by rule.

    Raises:
        UserError: the file is missing or broken, or a record has none of the `layouts`; names line or element.
    """
    for record in read_records(file):
        sample = chat_sample(record, layouts)
        if isinstance(sample, Sample):
            yield sample
        elif dropped is not None:
            dropped[sample.rule] += 1


def chat_sample(record: Record, layouts: Sequence[Layout]) -> Sample | Dropped:
    """A record as a sample, or the rule by which it is dropped.

    - A system message is written before the first human message, with an empty line between: many chat templates
      refuse a system role, and a sample has human and gpt only.
    - Messages of one sender that follow each other become one, with an empty line between; gpt messages only where
      their flags agree, else the chat is dropped.
    - What gpt says before the first human message, and what the human says after the last gpt message, is left out.
    - A gpt message without a flag is trained. The flags of human messages are not kept: they are never trained.
    - The id is the record's own, or a hash of its texts; `persona_id` is empty where the record has none.
    """
    layout = _layout(record, layouts)
    turns = _turns(record, layout)
    if isinstance(turns, Dropped):
        return turns
    joined = _joined(turns)
    if isinstance(joined, Dropped):
        return joined
    if not any(turn.sender == "gpt" and turn.loss is not False for turn in joined):
        return Dropped("nothing is trained")
    name, persona_id = record.value.get(layout.id), record.value.get("persona_id")
    conversations = [
        PublishedMessage(from_=t.sender, value=t.text, loss=t.loss is not False if t.sender == "gpt" else None)
        for t in joined
        if t.sender != "system"
    ]
    return Sample(
        id=str(name) if isinstance(name, str | int) else short_hash(*(m.value for m in conversations)),
        persona_id=persona_id if isinstance(persona_id, str) else "",
        conversations=conversations,
    )


def _layout(record: Record, layouts: Sequence[Layout]) -> Layout:
    if isinstance(record.value, dict):
        for layout in layouts:
            if isinstance(record.value.get(layout.messages), list):
                return layout
    expected = " or ".join(f"{layout.messages!r}" for layout in layouts)
    raise UserError(f"{record.place}: expected an object with a list {expected}; choose the format of the file.")


def _turns(record: Record, layout: Layout) -> list[Turn] | Dropped:
    turns: list[Turn] = []
    for number, message in enumerate(record.value[layout.messages], start=1):
        place = f"{record.place}, message {number}"
        if not isinstance(message, dict):
            raise UserError(f"{place}: expected an object with {layout.role!r} and {layout.text!r}.")
        if not isinstance(message.get(layout.role), str) or layout.text not in message:
            raise UserError(f"{place}: expected a role under {layout.role!r} and a text under {layout.text!r}.")
        text, loss = message[layout.text], message.get("loss")
        if not isinstance(loss, bool | None):
            raise UserError(f"{place}: expected true, false or null under 'loss', found {repr(loss)[:80]}.")
        sender = SENDERS.get(message[layout.role].lower())
        if sender is None:
            return Dropped("a role other than human, gpt and system")
        if not isinstance(text, str):
            return Dropped("a message that is not text (a picture, a call of a tool)")
        if not _is_unicode(text):
            return Dropped("a text with half of a surrogate pair")
        if text.strip():
            turns.append(Turn(sender, text, loss))
        elif sender == "gpt" and loss is not False:
            return Dropped("an empty reply that is trained")
    return turns


def _joined(turns: Sequence[Turn]) -> list[Turn] | Dropped:
    """Human and gpt in turn, from the first human message to the last gpt message."""
    system = "\n\n".join(turn.text for turn in turns if turn.sender == "system")
    joined: list[Turn] = []
    for turn in turns:
        if turn.sender == "system" or (turn.sender == "gpt" and not joined):
            continue
        if not joined or joined[-1].sender != turn.sender:
            joined.append(turn)
            continue
        last = joined[-1]
        if turn.sender == "gpt" and (turn.loss is False) != (last.loss is False):
            return Dropped("gpt messages in a row of which only some are trained")
        joined[-1] = last._replace(text=f"{last.text}\n\n{turn.text}")
    if joined and joined[-1].sender == "human":
        joined.pop()
    if system and joined:
        joined[0] = joined[0]._replace(text=f"{system}\n\n{joined[0].text}")
    return joined


def _is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8; JSON can hold half of a surrogate pair, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
