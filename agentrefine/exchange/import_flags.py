"""The flags by which data sets say which messages are trained, and the other keys that a message may have.

Every flag of the formats that are read is read, whatever name the import was given, because a flag that is overlooked
trains what it excludes:

| key | format |
|---|---|
| `loss` | the authors' data sets, AgentTraj, Agent-FLAN, AgentInstruct, ms-swift, XTuner |
| `weight` | OpenAI, Mistral, Together, Fireworks, OpenChat; ShareGPT data sets made for axolotl |
| `loss_weight` | LLaMA-Factory's trainer of 0.9.5 with USE_V1=1 |
| `train`, `train_detail` | axolotl's documentation (`message_field_training`, `message_field_training_detail`) |
| `training`, `training_detail` | axolotl's own names for the two |
| `trainable` | Tinker |
| `loss_mask`, `loss_scale` | trainers of agents, ms-swift |
| `masked` | torchtune; true means not trained |
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from agentrefine.errors import UserError

FLAGS = ("loss", "weight", "loss_weight", "train", "training", "trainable", "loss_mask", "loss_scale")
"""Keys of a message whose value, true or 1, says that it is trained; false or 0, that it is not."""

OPPOSITE_FLAGS = ("masked",)
"""Keys of a message whose value, true or 1, says that it is not trained."""

DETAILS = ("train_detail", "training_detail")
"""Keys of a message whose value lists ranges of characters that are trained or not."""

CALLS = ("tool_calls", "function_call")
PICTURES = ("images", "image", "videos", "video", "audios", "audio")

METADATA = frozenset({
    "id", "name", "model", "markdown", "html", "text", "timestamp", "create_time", "created_at", "country", "header",
    "hashed_ip", "language", "lang", "redacted", "state", "toxic", "turn_identifier", "refusal", "reasoning_content",
    "reasoning", "thinking", "tool_call_id",
})  # fmt: skip
"""Keys of a message that say nothing of what is trained; they are left out and counted."""

_WORDS_OF_FLAGS = frozenset({
    "mask", "masks", "masked", "loss", "train", "trained", "training", "trainable", "weight", "weights",
})  # fmt: skip


class Keys(NamedTuple):
    """What the keys of a message say.

    Attributes:
        loss: whether it is trained; None where no key says so.
        in_part: only a part of it is trained, so that `loss` cannot say it.
        is_text: it has no call of a tool and no picture, sound or film.
        left_out: keys with a value that a sample has no place for.
    """

    loss: bool | None
    in_part: bool
    is_text: bool
    left_out: list[str]


def read_keys(
    message: Mapping[str, Any], text: str, known: Collection[str], ignored: Collection[str], place: str
) -> Keys:
    """Read the keys of a message beside those of role and text (`known`), less those that the user has ignored.

    Raises:
        UserError: a key that is not known, a flag with another value than true, false, 0, 1 and null, or two flags
            that contradict each other; names the place and the key.
    """
    given = {key: value for key, value in message.items() if key not in known and value is not None}
    left_out = [key for key in given if key in ignored or key in METADATA]
    says: dict[str, bool] = {}
    in_part = False
    for key, value in given.items():
        if key in left_out:
            continue
        if key in FLAGS or key in OPPOSITE_FLAGS:
            if not isinstance(value, bool | int | float) or value not in (0, 1):
                raise bad_value(place, key, "true, false, 0, 1 or null", value)
            says[key] = bool(value) == (key in FLAGS)
        elif key in DETAILS:
            trained = _trained_share(key, value, text, place)
            says[key], in_part = trained > 0, 0 < trained < 1
        elif key not in CALLS and key not in PICTURES:
            raise _unknown_key(place, key, "is not known", "write it as 'loss' with true or false")
    flags = {key: value for key, value in says.items() if key not in DETAILS}
    if len(set(flags.values())) > 1:
        raise UserError(
            "flags_contradict",
            f"{place}: {' and '.join(map(repr, flags))} contradict each other; keep the one that is right.",
            place=place,
            keys=list(flags),
        )
    if False in flags.values():
        says, in_part = flags, False
    return Keys(
        loss=all(says.values()) if says else None,
        in_part=in_part,
        is_text=not any(given.get(key) for key in (*CALLS, *PICTURES) if key not in ignored),
        left_out=[key for key in left_out if given[key] not in ("", [], {})],
    )


def refuse_flag_of_chat(key: str, place: str) -> None:
    """Refuse a key of a whole chat that may say what of it is trained.

    Raises:
        UserError: the key is a flag's or sounds like one.
    """
    words = set(key.lower().replace("-", "_").split("_"))
    if key in (*FLAGS, *OPPOSITE_FLAGS, *DETAILS) or words & _WORDS_OF_FLAGS:
        raise _unknown_key(place, key, "of a whole chat is not read", "write 'loss' into its messages")


def bad_value(place: str, key: str, expected: str, value: object) -> UserError:
    """The error of a key that holds something else than `expected`."""
    found = repr(value)[:80]
    message = f"{place}: expected {expected} under {key!r}, found {found}."
    return UserError("bad_value", message, place=place, key=key, found=found)


def _unknown_key(place: str, key: str, problem: str, remedy: str) -> UserError:
    message = (
        f"{place}: the key {key!r} {problem}, and it may say what is trained; if so, {remedy}, else have it ignored "
        f"(--ignore {key}; for a mix, ignore_keys in params.yaml)."
    )
    return UserError("unknown_key", message, place=place, key=key)


def _trained_share(key: str, ranges: object, text: str, place: str) -> float:
    """The share of a text's characters, spaces left out, that axolotl's ranges train; both ends belong to a range.

    Characters that no range names are not trained; an empty list trains nothing.
    """
    trained: set[int] = set()
    for item in ranges if isinstance(ranges, list) else [None]:
        given = item if isinstance(item, dict) else {}
        begin, end, is_trained = (given.get(name) for name in ("begin_offset", "end_offset", "train"))
        if not (isinstance(begin, int) and isinstance(end, int) and isinstance(is_trained, bool)):
            raise bad_value(place, key, "a list of objects with 'begin_offset', 'end_offset' and 'train'", ranges)
        if is_trained:
            trained.update(range(max(begin, 0), min(end + 1, len(text))))
    letters = [index for index, letter in enumerate(text) if not letter.isspace()]
    return sum(index in trained for index in letters) / len(letters) if letters else 0.0
