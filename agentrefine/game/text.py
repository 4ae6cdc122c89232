"""Texts: their words, and their characters: hidden ones, ones that look alike, and the writing systems.

Writing systems are recognised, languages are not: that needs no model and is never wrong about a name.
"""

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any

import re2
import yaml

from agentrefine.files import packaged_text

_TABLES: dict[str, Any] = yaml.safe_load(packaged_text("agentrefine.game", "characters.yaml"))
_HIDDEN = re2.compile("[" + "".join(_TABLES["hidden"]) + "]")
_JOINERS: str = _TABLES["joiners"]
_ZERO_WIDTH_JOINER = "\u200d"
_EMOJI_STYLES: str = _TABLES["emoji_styles"]
_KEYCAPS = "0123456789#*"
_JOINED_WRITING = frozenset(_TABLES["joined_writing"])
_LOOKALIKES: dict[int, str] = {ord(other): plain for plain, those in _TABLES["lookalikes"].items() for other in those}
_ANY_LOOKALIKE = re2.compile("[" + "".join(map(chr, _LOOKALIKES)) + "]")
_ALPHABETS = frozenset(_TABLES["alphabets"])
_ONE_WRITING: dict[str, str] = _TABLES["one_writing"]

_WORD = re.compile(r"\w+")
_WORD_OR_END = re.compile(r"\w+|[.!?](?!\w)|\n")
_LETTERS_AND_DIGITS = re.compile(r"[^\W_]+")
_BEYOND_LATIN = re2.compile("[^\x00-\u036f\u1d00-\u20cf]")
_SYLLABIC = frozenset({"CJK", "HANGUL"})
_LETTERS_OF_A_SIGN = 3
"""The letters that say about as much as a Chinese, Japanese or Korean sign."""
_MIN_LETTERS = 20
"""The letters from which a text is judged; what is shorter may be a name or a word that is quoted."""
_OWN_SHARE = 0.1
_FOREIGN_SHARE = 0.8


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
    """A character as a message names it: `U+200B ZERO WIDTH SPACE`."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def skeleton(text: str) -> str:
    """A text as the eye sees it: two texts that look alike have the same skeleton.

    Compatibility forms are undone (Unicode's NFKC), and what looks like a Latin letter, hyphen, apostrophe or quotation
    mark is replaced by it. ASCII stands for itself.
    """
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKC", text)
    # The search is fast, and most texts hold nothing to replace.
    return plain.translate(_LOOKALIKES) if _ANY_LOOKALIKE.search(plain) else plain


def mixed_word(text: str) -> str | None:
    """The first word that mixes letters of alphabets that look alike (`tаke` with a Cyrillic а); None without one.

    Greek letters that no Latin letter looks like are signs of science and free in Latin words (`10μF`, `kΩ`). Chinese
    and other writing systems may stand beside Latin letters in one word (`卡拉OK`).
    """
    if text.isascii():
        return None
    return next((word for word in _LETTERS_AND_DIGITS.findall(text) if not word.isascii() and _is_mixed(word)), None)


def _is_mixed(word: str) -> bool:
    alphabets = {first_word_of_name(letter) for letter in word if letter.isalpha()} & _ALPHABETS
    if alphabets == {"LATIN", "GREEK"}:
        return any(ord(letter) in _LOOKALIKES for letter in word)
    return len(alphabets) > 1


def own_writing(texts: list[str]) -> frozenset[str]:
    """The writing systems of a text: those of a tenth of its letters or more."""
    count = _letters("\n".join(texts))
    return frozenset(system for system, letters in count.items() if letters >= _OWN_SHARE * count.total())


def is_free_of_others(text: str, own: frozenset[str]) -> bool:
    """Whether a text holds letters of the `own` writing systems only: true of most texts, and fast to find."""
    if "LATIN" in own and _BEYOND_LATIN.search(text) is None:
        return True
    return own.issuperset(_letters(text))


def foreign_writing(text: str, own: frozenset[str]) -> str | None:
    """The writing system of a text more than four fifths of which, of 20 letters or more, are in none of the `own`."""
    if not own or is_free_of_others(text, own):
        return None
    count = _letters(text)
    foreign = Counter({system: letters for system, letters in count.items() if system not in own})
    is_foreign = count.total() >= _MIN_LETTERS and foreign.total() > _FOREIGN_SHARE * count.total()
    return foreign.most_common(1)[0][0] if is_foreign else None


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; JSON can hold half of a surrogate pair, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _letters(text: str) -> Counter[str]:
    """Letters by writing system; signs that stand for more than a letter count as several."""
    count: Counter[str] = Counter()
    for character, times in Counter(text).items():
        if character.isalpha():
            name = first_word_of_name(character)
            system = _ONE_WRITING.get(name, name)
            count[system] += times * (_LETTERS_OF_A_SIGN if system in _SYLLABIC else 1)
    return count


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def words_and_ends(text: str) -> list[str]:
    """The words of a text in lower case, and what ends its sentences: a full stop, `!`, `?` or a new line."""
    return _WORD_OR_END.findall(text.lower())


def three_word_runs(text: str) -> set[str]:
    """What games and scripts are compared by; a text of fewer words is one run of its own, an empty text is none."""
    found = words(text)
    return {" ".join(found[i : i + 3]) for i in range(max(1, len(found) - 2))} - {""}


def five_letter_runs(text: str) -> set[str]:
    """What single sentences are compared by, in any language: they have too few words, or none between spaces.

    Five characters: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.2.
    """
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))} - {""}
