"""The teacher's answers, and the verdicts of the rules on them; no LLM judges (paper, section 3.1)."""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from agentrefine.llm.completion import Kind, Usage


class Attempt(BaseModel):
    """A line of data/synthesis/attempts.jsonl: one answer of the teacher, raw.

    Example: `{"id": "9f...", "persona_id": "p1", "persona": "A baker", "sample": 0, "call": 1, "kind": "script",
    "script_call": null, "text": "{...}", "usage": {...}, "finish_reason": "stop", "teacher": "gpt-4o"}`

    Attributes:
        id: the answer's key in the journal.
        sample: which of the persona's samples, from 0. A persona's sample is the unit that is kept or dropped.
        call: which call of the sample's budget, from 1.
        script_call: for a trajectory, the call whose answer holds its script.
        usage, finish_reason: as the endpoint reports them.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    persona_id: str
    persona: str
    sample: int
    call: int
    kind: Kind
    script_call: int | None
    text: str
    usage: Usage
    finish_reason: str
    teacher: str


def by_sample(attempts: Iterable[Attempt]) -> Iterator[list[Attempt]]:
    """Attempts in their order, sample by sample."""
    for _, group in groupby(attempts, key=lambda attempt: (attempt.persona_id, attempt.sample)):
        yield list(group)


class Rule(StrEnum):
    """A rule that an answer can break: its name in every report, and what breaks it.

    The members stand beside their checks, in `agentrefine.verification`.
    """

    meaning: str

    def __new__(cls, name: str, meaning: str) -> Self:
        """A member whose value is its name in reports."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        return member

    def broken(self, message: str, turn: int | None = None) -> "RuleBrokenError":
        """The error of an answer that breaks this rule."""
        return RuleBrokenError(Problem(self, message, turn))


class Problem(NamedTuple):
    """What the rules found.

    Attributes:
        rule: the first rule broken.
        message: feedback that the teacher can act on: where, what, what to change.
        turn: the turn at fault, from 1; None for scripts and for findings on the whole.
    """

    rule: Rule
    message: str
    turn: int | None = None


class RuleBrokenError(Exception):
    """An answer breaks a rule: `raise TrajectoryRule.UNFINISHED.broken("The game ends ...")`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Verdict(BaseModel):
    """A line of data/verification/verdicts.jsonl: what the rules say of one answer of the teacher.

    Example: `{"attempt_id": "9f...", "persona_id": "p1", "sample": 0, "call": 2, "passed": false, "rule": "unfinished",
    "turn": null, "message": "The game ends ...", "turns_kept": 7}`

    Attributes:
        attempt_id, persona_id, sample, call: the answer judged, an `Attempt`.
        passed: sound and complete.
        rule, message, turn: as in `Problem`; empty and None when it passed.
        turns_kept: how many leading turns are sound and stay (0: start again).
    """

    model_config = ConfigDict(frozen=True)

    attempt_id: str
    persona_id: str
    sample: int
    call: int
    passed: bool
    rule: str
    turn: int | None
    message: str
    turns_kept: int


def quoted(text: object, max_characters: int = 120) -> str:
    """A value as a message shows it: on one line, shortened."""
    shown = repr(text)
    return shown if len(shown) <= max_characters else shown[:max_characters] + "..."
