"""The actions of a script, and what counts as a valid use of one (paper, section 3.1: verification codes)."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import re2
from pydantic import BaseModel, ConfigDict, Field

from agentrefine.game.text import skeleton

PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
"""A placeholder of an action template, such as `{path}` in `cd {path}`."""

MAX_ACTION = 1000
"""The characters of an action; what is longer is not valid."""
MAX_READINGS = 8
"""The ways to divide the beginning of an action between placeholders; what has more is not valid."""
MAX_STEPS_OF_A_MATCH = 5_000_000
"""The instructions of a compiled code times the characters that it reads."""
MAX_PARTS = 60
"""The words and signs of an action that is compared part by part; what has more is valid letter for letter only."""

_PARTS = re.compile(r"\w+|[^\w\s]")
_SPACES = re.compile(r"[ \t\r\n\f\v]+")
_NONSENSE = ("zqxv", "7")
"""Words that no action has: a code that takes them in a place takes anything there."""

_QUIET = re2.Options()
_QUIET.log_errors = False
_QUIET.never_capture = True
_QUIET.max_mem = 512 * 1024
"""Bytes for a compiled code and its cache: enough for a list of all values, too few for a hundred times any letter."""


class ActionSpec(BaseModel):
    """One action that the player may take.

    Example: `{"description": "Take an item.", "verification_code": "take .+", "parameters": {"item": ["lamp"]}}`

    Attributes:
        verification_code: a regular expression that a well-formed action matches from start to end; it comes from a
            teacher, so it runs in a linear-time engine only.
        parameters: for each placeholder of the template, its valid values.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    description: str = Field(min_length=1)
    verification_code: str = Field(min_length=1)
    parameters: dict[str, list[str]]


class _Gap(NamedTuple):
    """The words and signs before, between or after an action's values, and where the next value begins."""

    parts: list[re.Match[str]]
    end: int


@dataclass(frozen=True)
class Command:
    """One action, ready to be compared with what a player writes.

    Attributes:
        template: the action's template.
        names: the template's placeholders, in order.
        literals: the template's text before, between and after its placeholders (one more than there are names).
        values: for each placeholder, its valid values.
        code: the compiled verification code.

    Example: `take {item}` has names `("item",)`, literals `("take ", "")` and values `(frozenset({"lamp", "rope"}),)`.
    """

    template: str
    names: tuple[str, ...]
    literals: tuple[str, ...]
    values: tuple[frozenset[str], ...]
    code: Any

    @cached_property
    def lengths(self) -> tuple[frozenset[int], ...]:
        """The lengths of each placeholder's values, in characters."""
        return tuple(frozenset(map(len, known)) for known in self.values)

    def is_filled_as(self, action: str) -> bool:
        """Whether `action` is the template with each placeholder replaced by one of its valid values."""
        if not action.startswith(self.literals[0]) or not action.endswith(self.literals[-1]):
            return False
        ends = {len(self.literals[0])}
        for values, lengths, literal in zip(self.values, self.lengths, self.literals[1:], strict=True):
            reached = set()
            for end in ends:
                for length in lengths:
                    stop = end + length
                    if action[end:stop] in values and action.startswith(literal, stop):
                        reached.add(stop + len(literal))
            if not reached or len(reached) > MAX_READINGS:
                return False
            ends = reached
        return len(action) in ends

    def accepts(self, action: str) -> bool:
        """Whether the verification code matches `action` from start to end."""
        content = action.encode(errors="surrogatepass")
        return self.code.programsize * len(content) <= MAX_STEPS_OF_A_MATCH and bool(self.code.fullmatch(content))

    def matches(self, action: str) -> bool:
        """Whether `action` is the template with valid values, letter for letter, and the code accepts it."""
        return self.is_filled_as(action) and self.code.fullmatch(action.encode()) is not None

    def looks_like(self, action: str) -> bool:
        """Whether `action` is the template with valid values to the eye, whatever its characters (`skeleton`)."""
        return self._in_plain_characters.is_filled_as(skeleton(action))

    def allows(self, action: str) -> bool:
        """Whether `action` is a valid use as the code understands it: the code accepts it, and its values are valid.

        A code decides what else than the template itself is a valid use, in other case, with other spaces, or with
        words that it allows: `(?i)take (the )?(lamp|rope)` takes `Take the lamp`. Only what a code asks for counts:
        where it takes any word (`take .*`), the words have to be the template's.
        """
        return self.accepts(action) and (
            self._without_case.is_filled_as(plain(action))
            or any(self._asks_for(action, gaps) for gaps in self._readings(action))
        )

    def takes(self, action: str) -> bool:
        """Whether the code accepts `action` and it has valid values in the template's places, whatever its other words.

        So `grab {item}` with the code `.* .*` takes `take lamp`: by its code both are the same action.
        """
        return self.allows(action) or (
            self.accepts(action)
            and any(
                all(len(gap.parts) == len(words) for gap, words in zip(gaps, self._literal_words, strict=True))
                for gaps in self._readings(action)
            )
        )

    @cached_property
    def _in_plain_characters(self) -> "Command":
        return self._rewritten(map(skeleton, self.literals), skeleton)

    @cached_property
    def _without_case(self) -> "Command":
        literals = [_SPACES.sub(" ", literal.lower()) for literal in self.literals]
        literals[0], literals[-1] = literals[0].lstrip(" "), literals[-1].rstrip(" ")
        return self._rewritten(literals, plain)

    def _rewritten(self, literals: Iterable[str], rewrite: Callable[[str], str]) -> "Command":
        """The command in other characters, to be compared by `is_filled_as` only."""
        values = tuple(frozenset(map(rewrite, known)) for known in self.values)
        return replace(self, literals=tuple(literals), values=values)

    @cached_property
    def _literal_words(self) -> list[tuple[str, ...]]:
        return [tuple(_PARTS.findall(literal)) for literal in self._without_case.literals]

    @cached_property
    def _value_words(self) -> list[set[tuple[str, ...]]]:
        return [{tuple(_PARTS.findall(value)) for value in known} for known in self._without_case.values]

    @cached_property
    def _value_lengths(self) -> list[set[int]]:
        return [set(map(len, known)) for known in self._value_words]

    def _readings(self, action: str) -> list[list[_Gap]]:
        """The ways to find a valid value for each placeholder, by the words and signs between the values."""
        parts = list(_PARTS.finditer(action))
        if len(parts) > MAX_PARTS:
            return []
        words = tuple(part.group().lower() for part in parts)
        readings: list[list[tuple[int, int]]] = [[]]
        for known, lengths in zip(self._value_words, self._value_lengths, strict=True):
            readings = [
                [*reading, (start, start + length)]
                for reading in readings
                for start in range(reading[-1][1] if reading else 0, len(words))
                for length in lengths
                if start + length <= len(words) and words[start : start + length] in known
            ]
            if len(readings) > MAX_READINGS:
                return []
        return [_gaps(parts, reading, len(action)) for reading in readings]

    def _asks_for(self, action: str, gaps: list[_Gap]) -> bool:
        """Whether the code asks for what stands between the values wherever that is not the template's own."""
        for gap, literal in zip(gaps, self._literal_words, strict=True):
            words = tuple(part.group().lower() for part in gap.parts)
            if words == literal:
                continue
            same = SequenceMatcher(None, words, literal, autojunk=False).get_matching_blocks()
            known = {block.a + step for block in same for step in range(block.size)}
            other = [part.span() for index, part in enumerate(gap.parts) if index not in known]
            if any(self._takes_anything(action, *span) for span in other or [(gap.end, gap.end)]):
                return False
        return True

    def _takes_anything(self, action: str, start: int, stop: int) -> bool:
        """Whether the code accepts the action with any word in place of a part of it, or put in where that is empty."""
        before, after = action[:start], action[stop:]
        spaces = ("", "") if start < stop else (" " * (not before.endswith(" ")), " " * bool(after))
        return any(self.accepts(f"{before}{spaces[0]}{word}{spaces[1]}{after}") for word in _NONSENSE)


def plain(text: str) -> str:
    """A text in lower case, with single spaces and none around it."""
    return _SPACES.sub(" ", text.lower()).strip(" ")


def _gaps(parts: list[re.Match[str]], reading: list[tuple[int, int]], length: int) -> list[_Gap]:
    starts = [0, *(stop for _, stop in reading)]
    stops = [*(start for start, _ in reading), len(parts)]
    ends = [*(parts[start].start() for start, _ in reading), length]
    return [_Gap(parts[start:stop], end) for start, stop, end in zip(starts, stops, ends, strict=True)]


class ActionSet:
    """The available actions of a script, compiled once.

    Raises:
        ValueError: a verification code is no regular expression of the linear-time engine.
    """

    def __init__(self, actions: Mapping[str, ActionSpec]) -> None:
        self.commands = [_command(template, spec) for template, spec in actions.items()]

    def matching(self, action: str) -> str | None:
        """The template of which `action` is a valid use, letter for letter or as its code understands it; else None."""
        if len(action) > MAX_ACTION:
            return None
        found = (command for command in self.commands if command.matches(action))
        allowed = (command for command in self.commands if command.allows(action))
        return next((command.template for command in chain(found, allowed)), None)

    def resembling(self, action: str) -> str | None:
        """The template of which `action` looks like a valid use although its characters are others; else None."""
        if len(action) > MAX_ACTION or (self._is_ascii and action.isascii()):
            return None
        return next((command.template for command in self.commands if command.looks_like(action)), None)

    @cached_property
    def _is_ascii(self) -> bool:
        return all("".join([*known.literals, *chain(*known.values)]).isascii() for known in self.commands)


def _command(template: str, spec: ActionSpec) -> Command:
    parts = PLACEHOLDER.split(template)
    values = tuple(frozenset(spec.parameters.get(name, ())) for name in parts[1::2])
    return Command(template, tuple(parts[1::2]), tuple(parts[::2]), values, linear_regex(spec.verification_code))


def linear_regex(pattern: str) -> Any:  # noqa: ANN401
    """A pattern from outside, compiled for google-re2, which matches in time linear in the text.

    Raises:
        ValueError: google-re2 cannot compile it; says why.
    """
    try:
        return re2.compile(pattern, _QUIET)
    except re2.error as error:
        raise ValueError(error.args[0].decode(errors="replace")) from error
