"""Plain text of the training worlds: what the tiny base reads before it is tuned. No chat, no thoughts, no format.

Two kinds of text. *Inventories* say where a few things are and then ask: a model of this size learns to look things up
in its context from such text within a hundred thousand tokens, and from transcripts alone not within millions.
*Transcripts* are games with questions between the lines. Both know the training families and themes only.
"""

from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import count
from random import Random
from typing import NamedTuple

import yaml

from agentrefine.files import short_hash
from agentrefine.worlds.catalogue import families, themes
from agentrefine.worlds.engine import Game
from agentrefine.worlds.family import Theme
from agentrefine.worlds.language import sentence
from agentrefine.worlds.layout import EVALUATION_SEEDS, draw_world
from agentrefine.worlds.player import Explorer

INVENTORIES = 8
"""Inventories for each transcript; they are about a fifth as long."""

WANDERING_SHARE = 0.3
"""How often a transcript's player does something that is possible or was possible, instead of what the expert does."""

RULES_SHARE = 0.5
"""How many of the transcripts begin with the rules."""

QUESTIONS = 3
"""Questions after each observation of a transcript."""

MOST_ACTIONS = 25


class PlainText(NamedTuple):
    """A text to pretrain on.

    Attributes:
        text: in the language of the worlds.
        answers_only: train only on what stands between a question mark and the full stop: all else is drawn at random
            and would drown what can be learned.
    """

    text: str
    answers_only: bool


def plain_texts(seed: int) -> Iterator[PlainText]:
    """Texts without end: inventories, and transcripts whose player wanders, so that some of its actions fail."""
    rng = Random(int(short_hash("plain texts", str(seed)), 16))
    kinds = [family.name for family in families("train")]
    for number in count():
        for _ in range(INVENTORIES):
            yield PlainText(_inventory(rng.choice(themes("train")), rng), answers_only=True)
        world_seed = int(short_hash("plain text", str(seed), str(number)), 16) % EVALUATION_SEEDS
        theme = rng.choice(themes("train")).name
        game = Game(draw_world(rng.choice(kinds), theme, world_seed))
        yield PlainText(_transcript(game, rng), answers_only=False)


def _inventory(theme: Theme, rng: Random) -> str:
    """Where some things are, then questions about these and a few others, twice."""
    spots = [*theme.nouns["place"], *theme.nouns["container"]]
    names = [name for kind, nouns in theme.nouns.items() if kind not in ("place", "container") for name in nouns]
    asked = rng.sample(names, rng.randint(4, 9))
    facts = {name: phrasing()["located"].format(name=name, spot=rng.choice(spots)) for name in asked[:-2]}
    sentences = list(facts.values())
    for _ in range(2):
        rng.shuffle(asked)
        sentences += [_answered(name, facts.get(name)) for name in asked]
    return f"{' '.join(sentences)}\n"


def _transcript(game: Game, rng: Random) -> str:
    texts = phrasing()
    actions = game.world.rules.actions.items()
    rules = [texts["rule"].format(template=template, does=action.does) for template, action in actions]
    lines = [*(rules if rng.random() < RULES_SHARE else []), game.world.goal, game.first_observation()]
    expert = Explorer(game)
    possible_before = game.applicable()
    for _ in range(MOST_ACTIONS):
        if game.completed:
            break
        lines.append(" ".join(_question(game, rng) for _ in range(QUESTIONS)))
        possible = game.applicable()
        wandering = rng.random() < WANDERING_SHARE
        try:
            action = rng.choice(possible + possible_before) if wandering else expert.next_action()
        except RuntimeError:
            break  # wandering has spent what the goal needs, such as the only coin: the text ends here
        possible_before = possible
        lines += [texts["command"].format(action=action), game.step(action).observation]
    return "".join(f"{line}\n" for line in lines)


def _question(game: Game, rng: Random) -> str:
    """A question about the game as it is known so far, with its answer."""
    kind = rng.random()
    if kind < 0.2:
        open_conditions = [c.text for c in game.world.conditions if c.fact not in game.state]
        return phrasing()["left"].format(condition=sentence(open_conditions[0]))
    unseen_places = [fact[1] for fact in game.unexplored() if fact[1] in game.world.members["place"]]
    if kind < 0.4 and unseen_places:
        return phrasing()["next"].format(place=unseen_places[0])
    predicates = game.world.rules.predicates
    known = [fact for fact in sorted(game.known) if predicates[fact[0]].tell and len(fact) > 1]
    wanted = [name for condition in game.world.conditions for name in condition.fact[1:]]
    name = rng.choice([*wanted, *(fact[1] for fact in known)])
    about = [fact for fact in known if fact[1] == name]
    return _answered(name, sentence(predicates[about[0][0]].text(about[0])) if about else None)


def _answered(name: str, fact: str | None) -> str:
    if fact is None:
        return phrasing()["unseen"].format(name=name)
    return phrasing()["where"].format(name=name, fact=fact)


@cache
def phrasing() -> dict[str, str]:
    """The templates of `corpus.yaml`."""
    text = resources.files("agentrefine.tuning").joinpath("corpus.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))
