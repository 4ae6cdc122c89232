"""Refinement: each verdict goes back to the teacher until a game passes or its calls are spent (paper, algorithm 1)."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from agentrefine.files import short_hash
from agentrefine.game.personas import Persona
from agentrefine.game.script import Script
from agentrefine.game.trajectory import DMTurn, DroppedSample, PlayerTurn, Trajectory
from agentrefine.game.verdict import Attempt, Problem, Verdict
from agentrefine.llm.completion import Teacher
from agentrefine.params import Params
from agentrefine.synthesis.first_answers import ask, gather_or_raise
from agentrefine.synthesis.prompts import (
    continuation_messages,
    script_messages,
    script_retry_messages,
    trajectory_messages,
)
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.trajectory_rules import no_answer, verdict, verify_trajectory


class Refined(NamedTuple):
    """The end of a sample.

    Attributes:
        outcome: the game that passed, or why there is none.
        attempts: all answers, the first ones included.
        verdicts: what the rules said of each, in the same order.
    """

    outcome: Trajectory | DroppedSample
    attempts: list[Attempt]
    verdicts: list[Verdict]


async def refine(first_attempts: Sequence[Attempt], teacher: Teacher, params: Params) -> Refined:
    """Work on one sample until its game passes or its calls are spent.

    A rejected script is written again with the reason. A rejected game is continued after its sound turns, or written
    again when none are kept. A last call that could only bring a script is not spent.

    Args:
        first_attempts: the sample's first answers (`synthesise`), at least one.
        teacher: who is asked.
        params: the settings; `refinement.call_budget` counts the first answers too.

    Raises:
        UserError: the teacher refuses for good.
    """
    work = _Sample(first_attempts[0], params)
    for attempt in first_attempts:
        work.take(attempt)
    while not work.passed and work.calls_left >= work.calls_needed:
        work.take(await work.next_answer(teacher))
    return Refined(work.outcome(), work.attempts, work.verdicts)


async def refine_shard(
    samples: Iterable[Sequence[Attempt]], teacher: Teacher, params: Params, on_done: Callable[[], None] = lambda: None
) -> list[Refined]:
    """Work on many samples, all at once, in the order of `samples`: the first answers of each.

    Raises:
        UserError: the teacher refuses for good; the other samples are given up.
    """
    return await gather_or_raise((refine(attempts, teacher, params) for attempts in samples), on_done)


class _Sample:
    """A sample on its way: its script, its sound turns, and who wrote them."""

    def __init__(self, first: Attempt, params: Params) -> None:
        self.persona = Persona(id=first.persona_id, text=first.persona)
        self.sample = first.sample
        self.params = params
        self.attempts: list[Attempt] = []
        self.verdicts: list[Verdict] = []
        self.problem: Problem | None = None
        self.passed = False
        self.script: Script | None = None
        self.script_attempt = first
        self.turns: list[DMTurn | PlayerTurn] = []
        self.writers: list[str] = []

    @property
    def calls_left(self) -> int:
        return self.params.refinement.call_budget - len(self.attempts)

    @property
    def calls_needed(self) -> int:
        """Calls that a pass still takes at the least."""
        return 2 if self.script is None else 1

    def take(self, attempt: Attempt) -> None:
        """Judge an answer and keep what is sound of it. A call without an answer leaves everything as it was."""
        unanswered = no_answer(attempt)
        if not unanswered and attempt.kind == "script":
            self.script, self.problem = verify_script(attempt.text)
            self.script_attempt = attempt
            self.turns, self.writers = [], []
        elif not unanswered:
            self._take_turns(attempt)
        self.attempts.append(attempt)
        self.verdicts.append(verdict(attempt, self.problem, turns_kept=len(self.turns)))

    def _take_turns(self, attempt: Attempt) -> None:
        if self.script is None:
            raise ValueError(f"attempt {attempt.id} is a trajectory without a sound script")
        self.turns, self.problem = verify_trajectory(
            self.script, attempt.text, self.params.verification, kept=self.turns
        )
        written = len(self.turns) - len(self.writers)
        self.writers = [*self.writers, *[attempt.id] * written][: len(self.turns)]
        self.passed = self.problem is None

    async def next_answer(self, teacher: Teacher) -> Attempt:
        """The next call: the script again, its first game, or the rest of the game."""
        call = len(self.attempts) + 1
        feedback = self.problem.message if self.problem else ""
        if self.script is None:
            messages = script_retry_messages(self.persona, feedback) if feedback else script_messages(self.persona)
            return await ask(messages, "script", "refinement", self.persona, self.sample, call, teacher)
        demands = self.params.verification
        mistakes, max_turns = demands.min_error_refine_turns, demands.max_turns
        if self.problem is None:
            messages = trajectory_messages(self.persona, self.script, mistakes=mistakes, max_turns=max_turns)
        else:
            messages = continuation_messages(
                self.persona, self.script, self.turns, feedback, mistakes=mistakes, max_turns=max_turns
            )
        written_in = self.script_attempt.call
        return await ask(
            messages, "trajectory", "refinement", self.persona, self.sample, call, teacher, script_call=written_in
        )

    def outcome(self) -> Trajectory | DroppedSample:
        """The game that passed, or why the last answer did not."""
        script = self.script
        if not self.passed or script is None:
            last = self.verdicts[-1]
            return DroppedSample(
                persona_id=self.persona.id,
                persona=self.persona.text,
                sample=self.sample,
                rule=last.rule,
                message=last.message,
                calls=len(self.attempts),
            )
        parts = [script.model_dump_json(), *(turn.model_dump_json() for turn in self.turns)]
        return Trajectory(
            id=short_hash("trajectory", self.persona.id, str(self.sample), *parts),
            persona_id=self.persona.id,
            persona=self.persona.text,
            sample=self.sample,
            script=script,
            turns=self.turns,
            calls=list(dict.fromkeys([self.script_attempt.id, *self.writers])),
            teacher=self.attempts[-1].teacher,
        )
