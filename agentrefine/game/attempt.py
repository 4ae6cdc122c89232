"""Attempts: the teacher's answers as they came, before any rule has judged them."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from pydantic import BaseModel, ConfigDict

from agentrefine.llm.completion import Kind, Usage


class Attempt(BaseModel):
    """One answer of the teacher, raw.

    Attributes:
        id: the answer's key in the journal.
        persona_id, persona: who it was written for.
        sample: which of the persona's samples, from 0. A persona's sample is the unit that is kept or dropped.
        call: which call of the sample's budget, from 1.
        kind: what was asked for.
        script_call: for a trajectory, the call whose answer holds its script.
        text: the answer, raw.
        usage: tokens as the endpoint counted them.
        finish_reason: as the endpoint reports it.
        teacher: the model that answered.
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
