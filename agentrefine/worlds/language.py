"""English of the worlds' texts: clauses into sentences, lists, and the player's own words."""

import re
from collections.abc import Sequence

_FIRST_PERSON = {"you are": "I am", "you": "I", "your": "my"}
_SECOND_PERSON = re.compile(r"\b(?:you are|you|your)\b")


def capitalised(clause: str) -> str:
    """The clause with a capital letter first."""
    return clause[:1].upper() + clause[1:]


def sentence(clause: str) -> str:
    """A clause as a sentence: `the cup is here` becomes `The cup is here.`"""
    return f"{capitalised(clause)}."


def enumeration(entries: Sequence[str], last: str = " and ") -> str:
    """`the cup, the map and the pen`.

    Args:
        entries: one or more texts.
        last: what joins the last two.
    """
    *before, end = entries
    return f"{', '.join(before)}{last}{end}" if before else end


def first_person(clause: str) -> str:
    """A clause about the player (`you are in the barn`) as the player says it (`I am in the barn`)."""
    return _SECOND_PERSON.sub(lambda found: _FIRST_PERSON[found.group()], clause)
