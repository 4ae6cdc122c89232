"""Characters that nobody sees, and characters that look like others.

Sources: the Unicode property Default_Ignorable_Code_Point; Unicode Technical Standard 39 for lookalikes.
"""

import unicodedata
from functools import cache
from importlib import resources
from typing import Any

import re2
import yaml

_HIDDEN = re2.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but tab and newline
    "\xad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # zero-width, joiners, direction
    "\u2028\u2029"  # line and paragraph separators
    "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # letters and symbols that are drawn as nothing
    "\ufe00-\ufe0f\ufff0-\ufffc\ufffe\uffff"  # variation selectors, annotations, no characters
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # format of scores, tags
    "\ue000-\uf8ff\U000f0000-\U0010ffff"  # private use
    "]"
)
_JOINERS = "\u200c\u200d\u180b\u180c\u180d\u180f"
_ZERO_WIDTH_JOINER = "\u200d"
_EMOJI_STYLES = "\ufe0e\ufe0f"
_KEYCAPS = "0123456789#*"
_JOINED_WRITING = frozenset(
    {"ARABIC", "SYRIAC", "MANDAIC", "NKO", "MONGOLIAN", "ADLAM", "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI"}
    | {"ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE"}
)
"""Writing systems in which a joiner between two letters changes how they are drawn, and so can be needed."""


def hidden_character(text: str) -> str | None:
    """The first invisible, direction or control character of a text; None when there is none.

    Newline and tab are free. Joiners are free between letters of writing systems that need them (Persian, Hindi, ...)
    and inside emoji.
    """
    found = (sign for sign in _HIDDEN.finditer(text) if not _is_needed(text, sign.start()))
    first = next(found, None)
    return str(first.group()) if first else None


def _is_needed(text: str, position: int) -> bool:
    character, before, after = text[position], text[position - 1 : position], text[position + 1 : position + 2]
    if character in _EMOJI_STYLES:
        return bool(before) and (unicodedata.category(before) in ("So", "Sm", "Po") or before in _KEYCAPS)
    if character not in _JOINERS or not before or not after:
        return False
    if character == _ZERO_WIDTH_JOINER and _is_emoji(before) and _is_emoji(after):
        return True
    return first_word_of_name(before) in _JOINED_WRITING and first_word_of_name(after) in _JOINED_WRITING


def _is_emoji(character: str) -> bool:
    return unicodedata.category(character) in ("So", "Sm", "Sk") or character in _EMOJI_STYLES


@cache
def first_word_of_name(character: str) -> str:
    """The first word of a character's Unicode name, which for a letter is its writing system; empty without a name."""
    return unicodedata.name(character, "").partition(" ")[0]


def named(character: str) -> str:
    """A character as a message tells of it: `U+200B ZERO WIDTH SPACE`."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def skeleton(text: str) -> str:
    """A text as the eye sees it: two texts that look alike have the same skeleton.

    Compatibility forms are undone (Unicode's NFKC), and what looks like a Latin letter, hyphen, apostrophe or quotation
    mark is replaced by it. ASCII stands for itself.
    """
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    return plain.translate(_lookalikes()) if _any_lookalike().search(plain) else plain


def is_lookalike(character: str) -> bool:
    """Whether a character of another writing system looks like a Latin letter."""
    return ord(character) in _lookalikes()


@cache
def _any_lookalike() -> Any:  # noqa: ANN401
    """Soon tells that there is nothing to replace."""
    return re2.compile("[" + "".join(map(chr, _lookalikes())) + "]")


@cache
def _lookalikes() -> dict[int, str]:
    path = resources.files("agentrefine.texts").joinpath("lookalikes.yaml")
    table: dict[str, str] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {ord(other): plain for plain, others in table.items() for other in others}
