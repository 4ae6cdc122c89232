"""Policies that frame every model: the solution above, chance and doing nothing below.

They play through the same dialogue and reply format as a model, so that what they reach is what the environments,
the prompts and the player allow.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, SimulatorError, StepResult
from agentrefine.benchmarks.common import rng_of
from agentrefine.evaluation.policy import OPENING_MESSAGES, Dialogue, Reply
from agentrefine.files import short_hash
from agentrefine.game.conversation import Message, reply_text
from agentrefine.params.evaluation import CHANCE


class TimedEnvironment:
    """An environment with the time that it took.

    Attributes:
        start_seconds: of making and resetting it.
        step_seconds: of all its steps.
    """

    def __init__(self, environment: Environment, making_seconds: float) -> None:
        self._environment = environment
        self.start_seconds = making_seconds
        self.step_seconds = 0.0

    @property
    def goal(self) -> str:
        """The task in words."""
        return self._environment.goal

    @property
    def actions(self) -> Mapping[str, str]:
        """Templates and meanings of the actions."""
        return self._environment.actions

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        began = time.perf_counter()
        observation = self._environment.reset()
        self.start_seconds += time.perf_counter() - began
        return observation

    def step(self, action: str) -> StepResult:
        """Take one action."""
        began = time.perf_counter()
        result = self._environment.step(action)
        self.step_seconds += time.perf_counter() - began
        return result

    def possible(self) -> list[str]:
        """Actions that are possible now; the search for them is no part of a step's time."""
        return self._environment.possible()

    def close(self) -> None:
        """Free what the episode holds."""
        self._environment.close()


class TimedBenchmark:
    """A benchmark that keeps the environments it made.

    Attributes:
        environments: by the episode's key, the last that was made for it.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        self.name = benchmark.name
        self.progress_definition = benchmark.progress_definition
        self.environments: dict[str, TimedEnvironment] = {}
        self._benchmark = benchmark

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """The benchmark's episodes."""
        return self._benchmark.episodes(limit, seed)

    def make(self, episode: EpisodeSpec) -> TimedEnvironment:
        """The environment of one episode, kept."""
        began = time.perf_counter()
        environment = self._benchmark.make(episode)
        self.environments[episode.key] = TimedEnvironment(environment, time.perf_counter() - began)
        return self.environments[episode.key]

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The benchmark's solution."""
        return self._benchmark.gold(episode)


IDLE = "do nothing"
"""An action that no benchmark knows: it is refused, and nothing changes."""

_THOUGHT = "-"


class IdlePolicy:
    """Always answers `IDLE`: what is reached without doing anything. The other policies answer with other actions."""

    name = "idle"
    batched = True
    style: Literal["react", "act"] = "react"

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One action for each dialogue."""
        replies = []
        for dialogue in dialogues:
            action = self.action(dialogue)
            text = reply_text(_THOUGHT, action) if self.style == "react" else f"Action: {action}"
            replies.append(Reply(text, prompt_tokens=0, completion_tokens=0))
        return replies

    def action(self, dialogue: Dialogue) -> str:
        """The next action in a dialogue."""
        return IDLE

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept between calls."""

    def close(self) -> None:
        """Nothing is under way."""


class GoldPolicy(IdlePolicy):
    """Gives each episode's solution, action by action; then `IDLE`.

    Args:
        solutions: the actions by the episode's id.
    """

    name = "gold"

    def __init__(self, solutions: Mapping[str, Sequence[str]]) -> None:
        self._solutions = solutions

    def action(self, dialogue: Dialogue) -> str:
        """The next action of the solution."""
        solution, turn = self._solutions[dialogue.key], _turn(dialogue.messages)
        return solution[turn] if turn < len(solution) else IDLE


class ChancePolicy(IdlePolicy):
    """Draws uniformly from the actions that are possible now; `IDLE` where there is none. Same seed, same draws.

    Args:
        timed: the benchmark that is played, whose environments list what is possible.
        seed: of the draws.
        style: the form of a reply (`Prompting.style`).
    """

    name = CHANCE

    def __init__(self, timed: TimedBenchmark, seed: int, style: Literal["react", "act"] = "react") -> None:
        self.style = style
        self._timed = timed
        self._seed = seed

    @staticmethod
    def digest(seed: int) -> str:
        """What identifies the policy, as a digest identifies a model's weights: its rule and its seed."""
        return short_hash(CHANCE, "uniform over the possible actions", str(seed))

    def action(self, dialogue: Dialogue) -> str:
        """One of the possible actions.

        Raises:
            UnlistedActionsError: the simulator does not list what is possible.
        """
        try:
            possible = self._timed.environments[dialogue.key].possible()
        except SimulatorError:  # the step that follows fails too, and says so
            return IDLE
        rng = rng_of("random actions", self._seed, dialogue.key, _turn(dialogue.messages))
        return rng.choice(possible) if possible else IDLE


def _turn(messages: Sequence[Message]) -> int:
    """How many turns the agent has had."""
    return (len(messages) - OPENING_MESSAGES) // 2
