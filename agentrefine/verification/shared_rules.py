"""The rules that the texts of scripts and of turns share. `phrases.yaml` holds the phrases that they look for.

`where` names the text in a message: `The script`, `Turn 3`.
"""

from functools import cache
from typing import Any

import re2
import yaml

from agentrefine.files import packaged_text
from agentrefine.game.text import foreign_writing, hidden_character, mixed_word, named, skeleton
from agentrefine.game.verdict import Rule, quoted

_REPLY_LINE = re2.compile(r"(?im)^[^\pL\pN_\n]*(?:thought|action)\s*\d*\s*[:\x{ff1a}]")


class SharedRule(Rule):
    """A rule that a text of a script and a text of a turn can break."""

    HIDDEN_CHARACTER = "hidden_character", "a text holds an invisible, direction or control character"
    MIXED_WRITING = "mixed_writing", "a word of a command mixes letters of alphabets that look alike"
    LOOKALIKE = "lookalike", "a command or value differs from another one only by characters that look alike"
    WORDS_TO_MODEL = "words_to_model", "a text speaks to a language model or holds the markers of a chat"
    REPLY_FORMAT = "reply_format", "a text holds a line that reads as a part of an agent's reply"
    OTHER_WRITING = "other_writing", "a text is in another writing system than the rest of its script"


def check_hidden(where: str, text: str) -> None:
    """No invisible, direction or control characters."""
    character = hidden_character(text)
    if character is not None:
        found = f"the invisible or control character {named(character)}"
        raise SharedRule.HIDDEN_CHARACTER.broken(f"{where} holds {found}; write visible characters only.")


def check_mixed(where: str, command: str) -> None:
    """No words of several alphabets in a template, value or action."""
    word = mixed_word(command)
    if word is not None:
        others = ", ".join(named(letter) for letter in dict.fromkeys(word) if not letter.isascii())
        found = f"the word {quoted(word)} ({quoted(others)})"
        message = f"{where} mixes alphabets within {found}; write it in one alphabet."
        raise SharedRule.MIXED_WRITING.broken(message)


def check_one_line(where: str, command: str) -> None:
    """No line breaks in a template, value or action."""
    if "\n" in command:
        message = f"{where} holds a command of several lines, {quoted(command)}; write it in one."
        raise SharedRule.REPLY_FORMAT.broken(message)


def check_words(where: str, text: str) -> None:
    """No words to a language model."""
    words = first_phrase("words_to_a_model", text)
    if words is not None:
        found = f"{quoted(words)}, which speaks to a language model or marks a part of a chat"
        raise SharedRule.WORDS_TO_MODEL.broken(f"{where} holds {found}; write only what belongs to the game.")


def check_reply_format(where: str, text: str) -> None:
    """No lines like those of an agent's reply."""
    line = reply_line(text)
    if line is not None:
        found = f"a line that begins with {quoted(line)}, as a reply of the player does"
        raise SharedRule.REPLY_FORMAT.broken(f"{where} holds {found}; write the text without it.")


def check_writing(where: str, text: str, own: frozenset[str]) -> None:
    """A text in the `own` writing systems of its script."""
    system = foreign_writing(text, own)
    if system is not None:
        found = f"{system} letters, the rest of the script in {' and '.join(sorted(own))}"
        message = f"{where} is written in {found}; write script and game in one language."
        raise SharedRule.OTHER_WRITING.broken(message)


def reply_line(text: str) -> str | None:
    """The beginning of a line that could be taken for a part of an agent's reply (`Action: ...`); else None."""
    found = _REPLY_LINE.search(text)
    return str(found.group()).strip() if found else None


def first_phrase(kind: str, text: str) -> str | None:
    """The first phrase of a kind in phrases.yaml that the text holds or, if it is not ASCII, looks like; else None."""
    pattern = _pattern(kind)
    found = pattern.search(text) or (None if text.isascii() else pattern.search(skeleton(text)))
    return str(found.group()) if found else None


@cache
def _pattern(kind: str) -> Any:  # noqa: ANN401
    patterns: list[str] = yaml.safe_load(packaged_text("agentrefine.verification", "phrases.yaml"))[kind]
    return re2.compile("(?i)" + "|".join(f"(?:{pattern})" for pattern in patterns))
