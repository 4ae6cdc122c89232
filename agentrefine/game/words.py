"""Words, sentences and n-grams, for comparing texts."""

import re

WORD = re.compile(r"\w+")
WORD_OR_END = re.compile(r"\w+|[.!?](?!\w)|\n")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


def words_and_ends(text: str) -> list[str]:
    """The words of a text in lower case, and what ends its sentences: a full stop, `!`, `?` or a new line."""
    return WORD_OR_END.findall(text.lower())


def word_ngrams(text: str, size: int) -> set[str]:
    """All runs of `size` words; a text of fewer words is one run of its own, an empty text is none."""
    tokens = words(text)
    return {" ".join(tokens[i : i + size]) for i in range(max(1, len(tokens) - size + 1))} - {""}


def three_word_runs(text: str) -> set[str]:
    """What games and scripts are compared by."""
    return word_ngrams(text, 3)


def five_letter_runs(text: str) -> set[str]:
    """What single sentences are compared by, in any language: they have too few words, or none between spaces.

    Five characters: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.2.
    """
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))} - {""}
