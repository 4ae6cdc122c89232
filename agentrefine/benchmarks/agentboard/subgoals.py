"""How AgentBoard counts the sub-goals that observations show to be reached.

The expressions of labels are from outside: they are matched by google-re2, in time linear in the observation. re2 has
no lookahead, but AgentBoard's labels of AlfWorld begin with some, as in `^(?=.* you see)(?=.*a mug)`. Lookaheads at the
start say no more than that each of them matches there, so that they are read as one expression each.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agentrefine.errors import UserError
from agentrefine.game.actions import linear_regex

_LOOKAHEAD = "(?="


class Expressions:
    """Sub-goals as regular expressions, in any order, as many at once as an observation matches (AlfWorld, SciWorld).

    Attributes:
        total: how many there are.
    """

    def __init__(self, expressions: Sequence[str], place: str) -> None:
        """Compile them.

        Raises:
            UserError: google-re2 cannot take one; names `place`.
        """
        self.total = len(expressions)
        self._open = [_compiled(expression, place) for expression in expressions]

    @property
    def reached(self) -> int:
        """How many have been matched so far."""
        return self.total - len(self._open)

    def read(self, observation: str) -> None:
        """Count what an observation matches."""
        self._open = [parts for parts in self._open if not all(part.search(observation) for part in parts)]


class SubgoalPhrases:
    """Sub-goals as phrases, at most one an observation (BabyAI, Jericho).

    There may be several ways to the goal: lists of equal length, whose phrases at the same place are the same sub-goal
    in other words.

    Attributes:
        total: how many sub-goals there are.
        reached: how many have been met so far.
    """

    def __init__(self, ways: Sequence[Sequence[str]], shows: Callable[[str, str], bool]) -> None:
        """Sub-goals that an observation meets where `shows(observation, phrase)` is true."""
        self.total = len(ways[0])
        self.reached = 0
        self._ways = [list(way) for way in ways]
        self._shows = shows

    def read(self, observation: str) -> None:
        """Count the first open sub-goal that an observation meets."""
        for place in range(self.total - self.reached):
            if any(self._shows(observation, way[place]) for way in self._ways):
                self.reached += 1
                for way in self._ways:
                    del way[place]
                return


def sentence_shows(observation: str, phrase: str) -> bool:
    """Whether a sentence holds all parts of a phrase, split at `**` or else `*` (`match_style` of babyai_env.py)."""
    parts = [part.strip(".") for part in phrase.strip().split("**" if "**" in phrase else "*")]
    return any(all(part in sentence for part in parts) for sentence in observation.split("."))


def passage_shows(observation: str, phrase: str) -> bool:
    """Whether a text holds a phrase, punctuation left out (`match_style` of agentboard/environment/jericho_env.py)."""
    plain_phrase, plain_text = (re.sub(r"[^a-zA-Z0-9\s]", "", text) for text in (phrase, observation))
    return plain_phrase in plain_text


def _compiled(expression: str, place: str) -> list[Any]:
    """The expressions that have to match together for a sub-goal."""
    try:
        return [linear_regex(part) for part in _parts(expression)]
    except ValueError as error:
        raise UserError(
            "bad_expression",
            f"{place}: the sub-goal {expression[:100]!r} is no expression that google-re2 can match ({error}); write "
            "it without backreferences, and lookaheads only behind a ^ at its start.",
            place=place,
            value=expression[:100],
        ) from error


def _parts(expression: str) -> Iterator[str]:
    """`^(?=A)(?=B)C` as `^(?:A)`, `^(?:B)` and `^C`; any other expression as it is."""
    rest = expression.removeprefix("^")
    found = []
    while expression.startswith("^") and rest.startswith(_LOOKAHEAD):
        end = _end_of_group(rest)
        if end is None:
            break
        found.append(f"^(?:{rest[len(_LOOKAHEAD) : end]})")
        rest = rest[end + 1 :]
    # Lookaheads that repeat, are not closed or have an alternative are no conjunction: re2 refuses the whole.
    if not found or rest.startswith(("*", "+", "?", "{", _LOOKAHEAD)) or "|" in rest:
        yield expression
        return
    yield from found
    if rest:
        yield f"^{rest}"


def _end_of_group(expression: str) -> int | None:
    """Where the group ends that an expression begins with; None if it does not end."""
    depth, place, in_class = 0, 0, False
    while place < len(expression):
        sign = expression[place]
        if sign == "\\":
            place += 1
        elif in_class:
            in_class = sign != "]"
        elif sign == "[":
            in_class = True
            # A bracket at the start of a class is one of its members.
            inside = expression[place + 1 :]
            place += 1 if inside.startswith("]") else 2 if inside.startswith("^]") else 0
        elif sign == "(":
            depth += 1
        elif sign == ")":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    return None
