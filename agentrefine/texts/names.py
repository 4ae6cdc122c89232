"""Whether a name is one of the words of a text: whole words, in the singular or the plural.

`pot` is not named by `potatoes`, but by `pots` and by `Pot_Holder`. Case does not matter; spaces, hyphens and
underscores are the same, and a word may also end where its letters change to a capital or to digits (`frontDesk`,
`room3`).
"""

import re
import unicodedata
from collections.abc import Iterable

from agentrefine.texts.characters import first_word_of_name

MAX_ENDING = 3
"""Letters that an inflected word of another language than English may have after the name (`лампа`, `лампами`)."""
MIN_STEM = 3
"""Letters of a name that may be inflected so."""

_WORD = re.compile(r"[^\W_]+")
_POSSESSIVE = re.compile(r"['’]s\b")
_INNER_WORDS = re.compile(r"[^\W\d_]+|\d+")
_CAPITAL_INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SEPARATE_WORDS = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN"})
"""Alphabets in which a word stands between spaces and is inflected at its end. Others write words without spaces, or
put articles and particles before and after them, so that a name may be any part of a word there.
"""
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "louse": "lice", "ox": "oxen", "die": "dice",
}  # fmt: skip


class Names:
    """The words of some texts, to ask which names they hold."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Take the texts apart; a name with several words may have them in different ones."""
        whole = unicodedata.normalize("NFC", "\n".join(texts))
        self._text = _POSSESSIVE.sub("", whole.lower())
        words = {*_WORD.findall(self._text), *_WORD.findall(_CAPITAL_INSIDE.sub(" ", whole).lower())}
        self._words = words | {inner for word in words for inner in _INNER_WORDS.findall(word)}
        self._plurals = {plural for word in self._words for plural in plurals(word)}

    def hold(self, name: str) -> bool:
        """Whether each word of a name is one of the words. A name without letters (a number, `..`) always is."""
        words = _WORD.findall(_POSSESSIVE.sub("", unicodedata.normalize("NFC", name).lower()))
        if not any(character.isalpha() for word in words for character in word):
            return True
        return all(self._has(word) for word in words)

    def _has(self, word: str) -> bool:
        if word in self._words or word in self._plurals or not self._words.isdisjoint(plurals(word)):
            return True
        alphabets = {first_word_of_name(letter) for letter in word if letter.isalpha()}
        if not alphabets <= _SEPARATE_WORDS:
            return word in self._text
        if word.isascii() or len(word) < MIN_STEM:
            return False
        return any(other.startswith(word) and len(other) - len(word) <= MAX_ENDING for other in self._words)


def plurals(word: str) -> set[str]:
    """The plurals that an English word may have; none of a word with other letters than English ones."""
    if not (word.isascii() and word.isalpha()):
        return set()
    if word in _IRREGULAR:
        return {_IRREGULAR[word]}
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return {f"{word}es"}
    forms = {f"{word}s"}
    if word.endswith("o"):
        forms.add(f"{word}es")
    if word.endswith("y"):
        forms.add(f"{word[:-1]}ies")
    if word.endswith(("f", "fe")):
        forms.add(f"{word.removesuffix('e')[:-1]}ves")
    return forms
