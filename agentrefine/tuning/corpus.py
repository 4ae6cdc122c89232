"""Plain text of the training worlds: what the tiny base reads before it is tuned. No chat, no thoughts, no format."""

from collections.abc import Iterator
from itertools import count
from random import Random

from agentrefine.files import short_hash
from agentrefine.worlds.catalogue import families, themes
from agentrefine.worlds.engine import Game
from agentrefine.worlds.layout import EVALUATION_SEEDS, draw_world
from agentrefine.worlds.player import Explorer, first_person

WANDERING_SHARE = 0.3
"""How often a transcript's player does something that is possible or was possible, instead of what the expert does."""

RULES_SHARE = 0.5
"""How many of the texts begin with the rules."""

REMARKS = 2
"""Remarks on what is known, after each observation."""

MOST_ACTIONS = 25


def plain_texts(seed: int) -> Iterator[str]:
    """Texts without end: a world's goal, often its rules, and a transcript of actions and what they lead to.

    Between the lines stand remarks on where things are, or that it is not known: what the observations so far say, in
    the words of the worlds. Worlds are of the training families and themes only. The player of the transcript
    wanders: some of its actions are not the expert's and some fail.
    """
    rng = Random(int(short_hash("plain texts", str(seed)), 16))
    kinds = [family.name for family in families("train")]
    places = [theme.name for theme in themes("train")]
    for number in count():
        world_seed = int(short_hash("plain text", str(seed), str(number)), 16) % EVALUATION_SEEDS
        yield _transcript(Game(draw_world(rng.choice(kinds), rng.choice(places), world_seed)), rng)


def _transcript(game: Game, rng: Random) -> str:
    rules = [f"{template} : {action.does}" for template, action in game.world.rules.actions.items()]
    lines = [*(rules if rng.random() < RULES_SHARE else []), game.world.goal, game.first_observation()]
    expert = Explorer(game)
    possible_before = game.applicable()
    for _ in range(MOST_ACTIONS):
        if game.completed:
            break
        lines.append(" ".join(_remark(game, rng) for _ in range(REMARKS)))
        possible = game.applicable()
        wandering = rng.random() < WANDERING_SHARE
        try:
            action = rng.choice(possible + possible_before) if wandering else expert.next_action()
        except RuntimeError:
            break  # wandering has spent what the goal needs, such as the only coin: the text ends here
        possible_before = possible
        lines += [action, game.step(action).observation]
    return "".join(f" {line}\n" for line in lines)


def _remark(game: Game, rng: Random) -> str:
    """What is known of an object of the goal, or of any other object."""
    predicates = game.world.rules.predicates
    known = [fact for fact in sorted(game.known) if predicates[fact[0]].tell]
    wanted = [name for condition in game.world.conditions for name in condition.fact[1:]]
    if known and rng.random() < 0.5:
        fact = rng.choice(known)
    else:
        name = rng.choice(wanted)
        about = [fact for fact in known if fact[1] == name]
        if not about:
            return f"i do not know where {name} is ."
        fact = about[-1]
    return f"{first_person(predicates[fact[0]].text(fact))} ."
