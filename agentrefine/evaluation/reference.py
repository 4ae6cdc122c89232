"""Policies that frame every model: the solution above, chance and doing nothing below.

They play through the same dialogue and reply format as a model, so that what they reach is what the environments,
the prompts and the player allow.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from agentrefine.benchmarks.base import SimulatorError
from agentrefine.benchmarks.common import rng_of
from agentrefine.evaluation.policy import Dialogue, Reply, turns_taken
from agentrefine.files import short_hash
from agentrefine.game.conversation import reply_text
from agentrefine.params.evaluation import CHANCE

IDLE = "do nothing"
"""An action that no benchmark knows: it is refused, and nothing changes."""


class IdlePolicy:
    """Always answers `IDLE`: what is reached without doing anything. The other policies answer with other actions."""

    name = "idle"
    batched = True
    style: Literal["react", "act"] = "react"

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One action for each dialogue."""
        actions = [self.action(dialogue) for dialogue in dialogues]
        texts = [reply_text("-", action) if self.style == "react" else f"Action: {action}" for action in actions]
        return [Reply(text, prompt_tokens=0, completion_tokens=0) for text in texts]

    def action(self, dialogue: Dialogue) -> str:
        """The next action in a dialogue."""
        return IDLE

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept between calls."""

    def close(self) -> None:
        """Nothing is in flight."""


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
        solution, turn = self._solutions[dialogue.key], turns_taken(dialogue.messages)
        return solution[turn] if turn < len(solution) else IDLE


class ChancePolicy(IdlePolicy):
    """Draws uniformly from the actions that are possible now; `IDLE` where there is none. Same seed, same draws.

    Args:
        seed: of the draws.
        style: the form of a reply (`Prompting.style`).
    """

    name = CHANCE

    def __init__(self, seed: int, style: Literal["react", "act"] = "react") -> None:
        self.style = style
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
            possible = dialogue.environment.possible() if dialogue.environment else []
        except SimulatorError:  # the step that follows fails too, and says so
            return IDLE
        rng = rng_of("random actions", self._seed, dialogue.key, turns_taken(dialogue.messages))
        return rng.choice(possible) if possible else IDLE
