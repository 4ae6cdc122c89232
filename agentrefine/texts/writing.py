"""Writing systems: which ones a text uses, and words that mix alphabets that look alike.

Writing systems are told apart, languages are not: that needs no model and is never wrong about a name.
"""

import re
from collections import Counter

import re2

from agentrefine.texts.characters import first_word_of_name, is_lookalike

_WORD = re.compile(r"[^\W_]+")
_BEYOND_LATIN = re2.compile("[^\x00-\u036f\u1d00-\u20cf]")
_ALPHABETS = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "MATHEMATICAL"})
"""Their letters are easily taken for each other; a word of a person's language holds those of one of them only."""

_ONE_WRITING = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "BOPOMOFO": "CJK", "IDEOGRAPHIC": "CJK", "FULLWIDTH": "LATIN"}
_SYLLABIC = frozenset({"CJK", "HANGUL"})
_LETTERS_OF_A_SIGN = 3
"""A Chinese, Japanese or Korean sign says about as much as so many letters."""
_FEWEST_LETTERS = 20
"""What is shorter may be a name or a word that is quoted."""
_OWN_SHARE = 0.1
_FOREIGN_SHARE = 0.8


def mixed_word(text: str) -> str | None:
    """The first word that mixes letters of alphabets that look alike (`tаke` with a Cyrillic а); None without one.

    Greek letters that no Latin letter looks like are signs of science and free in Latin words (`10μF`, `kΩ`). Chinese
    and other writing systems may stand beside Latin letters in one word (`卡拉OK`).
    """
    if text.isascii():
        return None
    return next((word for word in _WORD.findall(text) if not word.isascii() and _is_mixed(word)), None)


def _is_mixed(word: str) -> bool:
    alphabets = {first_word_of_name(letter) for letter in word if letter.isalpha()} & _ALPHABETS
    if alphabets == {"LATIN", "GREEK"}:
        return any(is_lookalike(letter) for letter in word)
    return len(alphabets) > 1


def own_writing(texts: list[str]) -> frozenset[str]:
    """The writing systems of a text: those of a tenth of its letters or more."""
    count = _letters("\n".join(texts))
    return frozenset(system for system, letters in count.items() if letters >= _OWN_SHARE * count.total())


def is_free_of_others(text: str, own: frozenset[str]) -> bool:
    """Whether a text holds letters of the `own` writing systems only: true of most texts, and soon told."""
    if "LATIN" in own and _BEYOND_LATIN.search(text) is None:
        return True
    return own.issuperset(_letters(text))


def foreign_writing(text: str, own: frozenset[str]) -> str | None:
    """The writing system of a text most of which is in none of the `own` ones; None when it is, or too short to tell.

    "Most" is more than four fifths of at least twenty letters.
    """
    if not own or is_free_of_others(text, own):
        return None
    count = _letters(text)
    total = count.total()
    foreign = Counter({system: letters for system, letters in count.items() if system not in own})
    if total < _FEWEST_LETTERS or foreign.total() <= _FOREIGN_SHARE * total:
        return None
    return foreign.most_common(1)[0][0]


def _letters(text: str) -> Counter[str]:
    """Letters by writing system; signs that stand for more than a letter count as several."""
    count: Counter[str] = Counter()
    for character, times in Counter(text).items():
        if character.isalpha():
            name = first_word_of_name(character)
            system = _ONE_WRITING.get(name, name)
            count[system] += times * (_LETTERS_OF_A_SIGN if system in _SYLLABIC else 1)
    return count
