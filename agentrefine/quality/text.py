"""Words and n-grams, for comparing texts."""

import re

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


def word_ngrams(text: str, size: int) -> set[str]:
    """All runs of `size` words; a text of fewer words is one run of its own, an empty text is none."""
    tokens = words(text)
    return {" ".join(tokens[i : i + size]) for i in range(max(1, len(tokens) - size + 1))} - {""}
