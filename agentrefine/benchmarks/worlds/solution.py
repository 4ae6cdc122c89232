"""How an expert solves a world that it sees no more of than the observations show."""

from typing import Final

from agentrefine.worlds.engine import Game
from agentrefine.worlds.player import Explorer

_MAX_ACTIONS: Final = 100


def solution(game: Game) -> list[str]:
    """The expert's actions, which play the game to its end. It tries again what failed although it was possible."""
    expert = Explorer(game)
    actions: list[str] = []
    while not game.completed and len(actions) < _MAX_ACTIONS:
        actions.append(expert.next_action())
        game.step(actions[-1])
    return actions
