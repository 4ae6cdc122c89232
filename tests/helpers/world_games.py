"""All families and themes, and games that the expert plays in them."""

import re
from itertools import product

from agentrefine.worlds import catalogue
from agentrefine.worlds.engine import Game
from agentrefine.worlds.layout import EVALUATION_SEEDS, draw_world
from agentrefine.worlds.planner import find_plan
from agentrefine.worlds.player import Explorer

FAMILIES = [f.name for split in ("train", "held_out") for f in catalogue.families(split)]
THEMES = [t.name for split in ("train", "held_out") for t in catalogue.themes(split)]
MISTAKE_KINDS = ("parameter_error", "logic_error", "place_error")
MAX_EXPERT_STEPS = 20


def worlds_of(family, seeds=(0, EVALUATION_SEEDS + 5)):
    return (draw_world(family, theme, seed) for theme, seed in product(THEMES, seeds))


def expert_game(world, paraphrase=None):
    game = Game(world, paraphrase)
    expert = Explorer(game)
    said = [game.first_observation()]
    actions = []
    while not game.completed and len(actions) < 40:
        actions.append(expert.next_action())
        outcome = game.step(actions[-1])
        assert outcome.error is None, (world.id, actions[-1], outcome)
        said.append(outcome.observation)
    return game, actions, said


def solution(world):
    """The planner's actions, with full knowledge of the world."""
    return [action.text for action in find_plan(world.problem, world.start, [c.fact for c in world.conditions])]


def unknown_words(text, words):
    """What is no name and no word of a text of the worlds."""
    rest = re.sub(rf"\b(?:{'|'.join(sorted(catalogue.names(), key=len, reverse=True))})\b", " ", text)
    return {word for word in catalogue.words_in(rest) if not {word, word.removesuffix(":")} & words}
