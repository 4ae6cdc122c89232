"""Phrases that a text of a game does not hold: words to a language model, its chat markers, its refusals."""

from functools import cache
from typing import Any

import re2
import yaml

from agentrefine.files import packaged_text
from agentrefine.game.characters import skeleton

_REPLY_LINE = re2.compile(r"(?im)^[^\pL\pN_\n]*(?:thought|action)\s*\d*\s*[:\x{ff1a}]")
_MAX_PREAMBLE = 500
"""The characters at the beginning of an answer in which one that declines says so."""


def words_to_a_model(text: str) -> str | None:
    """The first words of a text that speak to a language model, or that chat templates use as markers; else None.

    Lookalikes are seen through.
    """
    return _first("words_to_a_model", text)


def reply_line(text: str) -> str | None:
    """The beginning of a line that could be taken for a part of an agent's reply (`Action: ...`); else None."""
    found = _REPLY_LINE.search(text)
    return str(found.group()).strip() if found else None


def is_refusal(text: str) -> bool:
    """Whether an answer that holds no JSON declines to answer."""
    return _first("refusals", text[:_MAX_PREAMBLE]) is not None


def _first(kind: str, text: str) -> str | None:
    """What is found in the text itself or, when it holds more than ASCII, in what it looks like."""
    pattern = _pattern(kind)
    found = pattern.search(text)
    plain = skeleton(text)
    if found is None and plain != text:
        found = pattern.search(plain)
    return str(found.group()) if found else None


@cache
def _pattern(kind: str) -> Any:  # noqa: ANN401
    patterns: list[str] = yaml.safe_load(packaged_text("agentrefine.verification", "phrases.yaml"))[kind]
    return re2.compile("(?i)" + "|".join(f"(?:{pattern})" for pattern in patterns))
