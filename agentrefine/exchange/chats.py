"""Chats of other data sets as samples, in which every reply is trained unless a flag says otherwise.

Two spellings are in use: ShareGPT's `{"conversations": [{"from": "human", "value": ...}, ...]}`, as FastChat reads it
(https://github.com/lm-sys/FastChat/blob/main/fastchat/train/train.py), and `{"messages": [{"role": "user", "content":
...}, ...]}`, as TRL and OpenAI name it; both are also mixed.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from agentrefine import files
from agentrefine.errors import UserError
from agentrefine.exchange.import_flags import PICTURES, bad_value, read_keys, refuse_flag_of_chat
from agentrefine.files import Record, read_yaml, short_hash
from agentrefine.game.conversation import PublishedMessage, Sample
from agentrefine.game.text import is_unicode

Sender = Literal["human", "gpt", "system"]

SENDERS: dict[str, Sender] = {
    "human": "human", "user": "human",
    "gpt": "gpt", "assistant": "gpt", "chatgpt": "gpt", "bing": "gpt", "bard": "gpt", "model": "gpt",
    "system": "system", "developer": "system",
}  # fmt: skip
"""Who speaks, by the names in use. A chat with another role (a tool) is dropped: a sample has no place for it."""

MASK_HISTORY = "mask_history"
"""LLaMA-Factory's setting, and the key of our records for it: of a chat, only the last message is trained."""

SYSTEM_KEYS = ("system", "system_prompt")
"""Keys beside the messages that hold a system message."""

NOT_TEXT = "a message that is not text (a picture, a call of a tool)"


class Layout(NamedTuple):
    """The keys of a format.

    Attributes:
        id: of a chat's id.
        messages: of its list of messages.
        role, text: of a message's role and text.
        prompt: of a list of messages that come before those of `messages` and are not trained; empty: there is none.
        only_last_trained: the format trains a chat's last message only, as LLaMA-Factory does under `mask_history`.
    """

    id: str
    messages: str
    role: str
    text: str
    prompt: str = ""
    only_last_trained: bool = False


SHAREGPT = (
    Layout("id", "conversations", "from", "value"),
    Layout("id", "messages", "role", "content"),
    Layout("id", "conversations", "role", "content"),
    Layout("id", "messages", "from", "value"),
)
"""The forms of general chat."""


class _DroppedError(Exception):
    """A chat that cannot become a sample; the message is the rule."""


class Turn(NamedTuple):
    """A message of a foreign chat. `loss` is None where the data set does not say."""

    sender: Sender
    text: str
    loss: bool | None


@dataclass
class ChatCounts:
    """What became of the chats of some files (`read.ImportReport` describes each count)."""

    read: int = 0
    joined: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def read_chat_records(file: Path) -> Iterator[Record]:
    """The records of a `.parquet` file, a JSON list, or a file with one JSON value a line.

    Memory holds one record (parquet: one batch of rows), however large the file.

    Raises:
        UserError: the file is missing, or not what its ending or its first character says; names line or element.
    """
    if file.suffix != ".parquet" or not file.is_file():
        yield from files.read_records(file, "correct the path")
        return
    try:
        with pq.ParquetFile(file) as opened:
            rows = chain.from_iterable(batch.to_pylist() for batch in opened.iter_batches(batch_size=64))
            for number, row in enumerate(rows, start=1):
                yield Record(f"{file}, row {number}", row)
    except (pa.ArrowException, OSError) as error:
        message = f"{file}: cannot be read as parquet ({error}); fetch it again."
        raise UserError("not_parquet", message, file=file) from error


def read_chats(
    file: Path, layouts: Sequence[Layout] = SHAREGPT, counts: ChatCounts | None = None, ignored: Collection[str] = ()
) -> Iterator[Sample]:
    """The chats of a file as samples, one at a time; those that cannot become one are left out and added to `counts`.

    The file is JSON lines, a JSON list or parquet; `ignored` are keys that are left out, whatever they say. Settings of
    LLaMA-Factory beside the file may say that only the last message of its records is trained.

    Raises:
        UserError: the file is missing or broken, a record has none of the `layouts`, or it has a flag or a key that
            is not known; names line or element, message and key.
    """
    counts = ChatCounts() if counts is None else counts
    settings = file.parent / "llamafactory.yaml"
    given = read_yaml(settings, "correct the path") if settings.is_file() else None
    if isinstance(given, dict) and given.get(MASK_HISTORY) is True:
        layouts = [layout._replace(only_last_trained=True) for layout in layouts]
    held: Sample | None = None
    for record in read_chat_records(file):
        counts.read += 1
        left_out: Counter[str] = Counter()
        try:
            sample, only_last_trained = _sample(record, layouts, frozenset(ignored), left_out)
        except _DroppedError as dropped:
            counts.dropped[str(dropped)] += 1
            continue
        counts.left_out += left_out
        joined = _joined_records(held, sample) if held and only_last_trained else None
        if joined:
            counts.joined += 1
        elif held:
            yield held
        held = joined or sample
        if not only_last_trained:
            yield held
            held = None
    if held:
        yield held


def _joined_records(first: Sample, second: Sample) -> Sample | None:
    """Two records of one game that each train their last message, as one sample; None where they are of two."""
    begun = second.conversations[: len(first.conversations)]
    if first.id != second.id or [m.value for m in begun] != [m.value for m in first.conversations]:
        return None
    flagged = [
        new.model_copy(update={"loss": bool(new.loss or old.loss)}) if new.from_ == "gpt" else new
        for old, new in zip(first.conversations, begun, strict=True)
    ]
    return second.model_copy(update={"conversations": [*flagged, *second.conversations[len(flagged) :]]})


def _sample(
    record: Record, layouts: Sequence[Layout], ignored: frozenset[str], left_out: Counter[str]
) -> tuple[Sample, bool]:
    """A record as a sample, and whether only its last message is trained. What is left out is counted in `left_out`.

    - A system message is written before the first human message, with an empty line between: many chat templates
      refuse a system role, and a sample has human and gpt only. So is a system text beside the messages.
    - Messages of one sender that follow each other become one, with an empty line between; gpt messages only where
      their flags agree, else the chat is dropped.
    - What gpt says before the first human message, and what the human says after the last gpt message, is left out.
    - A gpt message without a flag is trained. The flags of human messages are not kept: they are never trained.
    - The id is the record's own, or a hash of its texts; `persona_id` is empty where the record has none.
    """
    layout = _layout(record, layouts)
    only_last_trained = record.value.get(MASK_HISTORY, layout.only_last_trained) is True
    system = _beside_the_messages(record, layout, ignored, left_out)
    turns = _turns(record, layout, ignored, left_out)
    if system and all(turn.text != system for turn in turns if turn.sender == "system"):
        turns = [Turn("system", system, None), *turns]
    if only_last_trained:
        turns = [turn._replace(loss=False) if turn.sender == "gpt" else turn for turn in turns[:-1]] + turns[-1:]
    joined = _joined(turns, left_out)
    if not any(turn.sender == "gpt" and turn.loss is not False for turn in joined):
        raise _DroppedError("nothing is trained")
    name, persona_id = record.value.get(layout.id), record.value.get("persona_id")
    conversations = [
        PublishedMessage(from_=t.sender, value=t.text, loss=t.loss is not False if t.sender == "gpt" else None)
        for t in joined
        if t.sender != "system"
    ]
    id_ = str(name) if isinstance(name, str | int) else short_hash(*(m.value for m in conversations))
    sample = Sample(
        id=id_.removesuffix(f"-{len(conversations) - 1}") if only_last_trained else id_,
        persona_id=persona_id if isinstance(persona_id, str) else "",
        conversations=conversations,
    )
    return sample, only_last_trained


def _layout(record: Record, layouts: Sequence[Layout]) -> Layout:
    if isinstance(record.value, dict):
        having = [layout for layout in layouts if isinstance(record.value.get(layout.messages), list)]
        for layout in having:
            first = next(iter(record.value[layout.messages]), None)
            if isinstance(first, dict) and layout.role in first and layout.text in first:
                return layout
        if having:
            return having[0]
        if "input_ids" in record.value:
            problem = "holds tokens ('input_ids') and no messages, so that its turns cannot be read"
            raise _bad_record(record.place, f"{problem}; import the data set that they were made of.", key="input_ids")
    keys = " or ".join(dict.fromkeys(repr(layout.messages) for layout in layouts))
    problem = f"expected an object with a list {keys}; choose the format of the file."
    raise _bad_record(record.place, problem, expected=keys)


def _bad_record(place: str, problem: str, **values: object) -> UserError:
    return UserError("bad_record", f"{place}: {problem}", place=place, **values)


def _beside_the_messages(record: Record, layout: Layout, ignored: frozenset[str], left_out: Counter[str]) -> str:
    """The system text beside a chat's messages. Other keys that hold something are counted in `left_out`."""
    system: list[str] = []
    for key, value in record.value.items():
        if value is None or value in ("", [], {}) or key in (layout.id, layout.messages, layout.prompt, "persona_id"):
            continue
        if key in ignored:
            left_out[f"{key}: a key to ignore"] += 1
        elif key in SYSTEM_KEYS:
            if not isinstance(value, str):
                raise bad_value(record.place, key, "a text", value)
            system.append(value)
        elif key == MASK_HISTORY:
            if not isinstance(value, bool):
                raise bad_value(record.place, key, "true or false", value)
        elif key in ("label", "kto_tag") and value is False:
            raise _DroppedError("an answer that is not wanted (label false)")
        elif key in PICTURES:
            raise _DroppedError(NOT_TEXT)
        elif not (key == "mask" and isinstance(value, str) and SENDERS.get(value.lower()) == "human"):
            refuse_flag_of_chat(key, record.place)
            left_out[f"{key}: beside the messages, and a sample has no place for it"] += 1
    return "\n\n".join(dict.fromkeys(system))


def _turns(record: Record, layout: Layout, ignored: frozenset[str], left_out: Counter[str]) -> list[Turn]:
    turns: list[Turn] = []
    prompt = record.value.get(layout.prompt) or []
    if not isinstance(prompt, list):
        raise bad_value(record.place, layout.prompt, "a list of messages", prompt)
    for number, message in enumerate([*prompt, *record.value[layout.messages]], start=1):
        place = f"{record.place}, message {number}"
        if not isinstance(message, dict):
            problem = f"expected an object with {layout.role!r} and {layout.text!r}."
            raise _bad_record(place, problem, expected="object")
        if not isinstance(message.get(layout.role), str) or layout.text not in message:
            problem = f"expected a role under {layout.role!r} and a text under {layout.text!r}."
            raise _bad_record(place, problem, keys=[layout.role, layout.text])
        sender = SENDERS.get(message[layout.role].lower())
        if sender is None:
            raise _DroppedError("a role other than human, gpt and system")
        text = _text(message[layout.text])
        keys = read_keys(message, text or "", (layout.role, layout.text), ignored, place)
        loss = False if number <= len(prompt) else keys.loss
        if text is None or not keys.is_text:
            raise _DroppedError(NOT_TEXT)
        if not is_unicode(text):
            raise _DroppedError("a text with half of a surrogate pair")
        if sender == "gpt" and loss is not False and keys.in_part:
            raise _DroppedError("a reply of which only a part is trained")
        for key in keys.left_out:
            left_out[f"{key}: a key of a message, and a sample has no place for it"] += 1
        if sender != "gpt" and loss:
            left_out[f"the flag that trains a message of {sender}: only replies are trained"] += 1
        if text.strip():
            turns.append(Turn(sender, text, loss))
        elif sender == "gpt" and loss is not False:
            raise _DroppedError("an empty reply that is trained")
        else:
            left_out[f"a message of {sender}: it is empty"] += 1
    return turns


def _text(content: Any) -> str | None:  # noqa: ANN401 (any JSON value)
    """A message's text: a string, or a list of parts that are all text; None for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return None
    texts = [part.get("text") if part.get("text") is not None else part.get("value") for part in content]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None


def _joined(turns: Sequence[Turn], left_out: Counter[str]) -> list[Turn]:
    """Human and gpt in turn, from the first human message to the last gpt message."""
    system = "\n\n".join(turn.text for turn in turns if turn.sender == "system")
    joined: list[Turn] = []
    for turn in turns:
        if turn.sender == "system":
            continue
        if turn.sender == "gpt" and not joined:
            left_out["a message of gpt: it stands before the first human message"] += 1
        elif not joined or joined[-1].sender != turn.sender:
            joined.append(turn)
        elif turn.sender == "gpt" and (turn.loss is False) != (joined[-1].loss is False):
            raise _DroppedError("gpt messages in a row of which only some are trained")
        else:
            joined[-1] = joined[-1]._replace(text=f"{joined[-1].text}\n\n{turn.text}")
    if joined and joined[-1].sender == "human":
        left_out["a message of human: no reply follows it"] += 1
        joined.pop()
    if system and joined:
        joined[0] = joined[0]._replace(text=f"{system}\n\n{joined[0].text}")
    return joined
