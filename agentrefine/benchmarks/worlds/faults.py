"""Worlds that are faulty: what is possible fails now and then, and one way on is stuck at first."""

from functools import cache
from typing import Any, Final

from agentrefine.benchmarks.common import data_of, rng_of
from agentrefine.benchmarks.worlds.solution import solution
from agentrefine.worlds.engine import Game, Outcome, Refusal
from agentrefine.worlds.facts import Move
from agentrefine.worlds.layout import World

TRANSIENT_PROBABILITY: Final = 0.15
"""The probability with which a possible action fails once, in [0, 1]."""

MAX_TRANSIENT: Final = 6
"""The most transient faults in an episode. The expert solves the sound worlds in at most 10 actions (the longest of
1,500 worlds); with these faults and the stuck way that makes 18, of the 20 steps that `evaluation.max_steps` allows."""

STUCK_ATTEMPTS: Final = 2
"""How many attempts at the stuck way fail before it is open for good."""


class FaultyGame(Game):
    """A game in which possible actions can fail: then nothing changes, and the observation says so.

    Faults follow from the world's id, from how many actions came before, and from the attempts at the stuck way. So the
    same actions meet the same faults, whatever else is played. What is not possible is refused, as in any world.

    Attributes:
        stuck: the way that is stuck: a move to a place, or one that opens a container. The expert takes it, so that a
            player is likely to meet it; where the expert takes no way at all, it is any.
        fault: what went wrong with the last action, in words; empty where it was done or refused.
    """

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.stuck = _drawn_way(world)
        self.fault = ""
        self._actions = self._transient = self._attempts = 0

    def step(self, action: str) -> Outcome:
        """Take one action. The outcome of a fault has no error, since the action was not the mistake."""
        self._actions += 1
        move = self.read(action)
        self.fault = "" if isinstance(move, Refusal) or isinstance(self.judge(move), Refusal) else self._fault(move)
        return Outcome(f"{self.fault} {self._status()}", None, self.completed) if self.fault else super().step(action)

    def _fault(self, move: Move) -> str:
        """What goes wrong with a possible move, in words; empty where nothing does."""
        texts, rng = fault_texts(), rng_of("faults", self.world.id, self._actions)
        fails = rng.random() < TRANSIENT_PROBABILITY
        if move == self.stuck and self._attempts < STUCK_ATTEMPTS:
            self._attempts += 1
            return str(rng.choice(texts["stuck"][move.template])).format(**move.binding)
        if fails and self._transient < MAX_TRANSIENT:
            self._transient += 1
            phrasings = [*texts["transient"]["any"], *texts["transient"].get(move.template, [])]
            return f"{rng.choice(phrasings).format(**move.binding)} {rng.choice(texts['retry'])}"
        return ""


@cache
def fault_texts() -> dict[str, Any]:
    """What faulty worlds say: `faults.yaml`."""
    return data_of("worlds", "faults.yaml")


def _drawn_way(world: World) -> Move:
    """The way that is stuck in a world."""
    game, rng = Game(world), rng_of("stuck way", world.id)
    expert = [game.read(action) for action in solution(Game(world))]
    for moves in (expert, list(game.moves())):
        ways = [move for move in moves if isinstance(move, Move) and move.template in fault_texts()["stuck"]]
        if ways:
            return rng.choice(ways)
    raise RuntimeError(f"world {world.id} has no way that could be stuck; add its action to faults.yaml")
