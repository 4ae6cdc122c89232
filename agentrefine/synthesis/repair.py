"""Repair of one sample (the paper calls it refinement; algorithm 1).

Each verdict goes back to the teacher until a game passes or the calls of the sample are spent.
"""

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
from agentrefine.synthesis.prompts import script_messages, trajectory_messages
from agentrefine.synthesis.repair_prompts import continuation_messages, script_retry_messages
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.trajectory_rules import no_answer, verdict, verify_trajectory


class Repaired(NamedTuple):
    """The end of a sample.

    Attributes:
        outcome: the game that passed, or why there is none.
        attempts: all answers, the first ones included.
        verdicts: what the rules said of each, in the same order.
    """

    outcome: Trajectory | DroppedSample
    attempts: list[Attempt]
    verdicts: list[Verdict]


async def refine(first_attempts: Sequence[Attempt], teacher: Teacher, params: Params) -> Repaired:
    """Work on one sample until its game passes or its calls are spent.

    A rejected script is written again with the reason. A rejected game is continued after its sound turns, or written
    again when none are kept. A last call that could only bring a script is not spent.

    Args:
        first_attempts: the sample's first answers (`synthesise`), at least one.
        teacher: who is asked.
        params: the settings; `repair.call_budget` counts the first answers too.
    """
    work = _Sample(first_attempts[0], params)
    for attempt in first_attempts:
        work.take(attempt)
    while not work.passed and params.repair.call_budget - len(work.attempts) >= (1 if work.script else 2):
        work.take(await work.next_answer(teacher))
    return Repaired(work.outcome(), work.attempts, work.verdicts)


async def repair_shard(
    samples: Iterable[Sequence[Attempt]], teacher: Teacher, params: Params, on_done: Callable[[], None] = lambda: None
) -> list[Repaired]:
    """Refine many samples, given the first answers of each, as `synthesise_shard` works on them."""
    return await gather_or_raise((refine(attempts, teacher, params) for attempts in samples), on_done)


class _Sample:
    """A sample on its way: its script, its sound turns, and who wrote them."""

    def __init__(self, first: Attempt, params: Params) -> None:
        self.persona = Persona(id=first.persona_id, text=first.persona)
        self.sample = first.sample
        self.demands = params.verification
        self.attempts: list[Attempt] = []
        self.verdicts: list[Verdict] = []
        self.problem: Problem | None = None
        self.passed = False
        self.script: Script | None = None
        self.script_attempt = first
        self.turns: list[DMTurn | PlayerTurn] = []
        self.writers: list[str] = []

    def take(self, attempt: Attempt) -> None:
        """Judge an answer and keep what is sound of it. A call without an answer leaves everything as it was."""
        unanswered = no_answer(attempt)
        if not unanswered and attempt.kind == "script":
            self.script, self.problem = verify_script(attempt.text)
            self.script_attempt = attempt
            self.turns, self.writers = [], []
        elif not unanswered:
            if self.script is None:
                raise ValueError(f"attempt {attempt.id} is a trajectory without a sound script")
            self.turns, self.problem = verify_trajectory(self.script, attempt.text, self.demands, kept=self.turns)
            written = len(self.turns) - len(self.writers)
            self.writers = [*self.writers, *[attempt.id] * written][: len(self.turns)]
            self.passed = self.problem is None
        self.attempts.append(attempt)
        self.verdicts.append(verdict(attempt, self.problem, turns_kept=len(self.turns)))

    async def next_answer(self, teacher: Teacher) -> Attempt:
        """The next call: the script again, its first game, or the rest of the game."""
        persona, script, feedback = self.persona, self.script, self.problem.message if self.problem else ""
        if script is None:
            messages = script_retry_messages(persona, feedback) if feedback else script_messages(persona)
        elif self.problem is None:
            messages = trajectory_messages(persona, script, self.demands)
        else:
            messages = continuation_messages(persona, script, self.turns, feedback, self.demands)
        call, script_call = len(self.attempts) + 1, self.script_attempt.call if script else None
        return await ask(teacher, "repair", messages, persona, self.sample, call, script_call=script_call)

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
