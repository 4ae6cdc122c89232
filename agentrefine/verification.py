"""Verification: rules, no LLM, that judge scripts and trajectories (paper, section 3.1 and algorithm 1)."""

from pydantic import BaseModel, ConfigDict


class Verdict(BaseModel):
    """What the rules say of one answer of the teacher.

    Attributes:
        attempt_id: the answer judged (`Attempt.id`).
        persona_id, sample, call: whose it is.
        passed: sound and complete.
        rule: the name of the first rule that it broke; empty when it passed.
        turn: the turn at fault, from 1; None for scripts and for findings on the whole.
        message: feedback that the teacher can act on; empty when it passed.
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
