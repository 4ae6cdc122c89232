"""What a player thinks: the templates of `thoughts.yaml`, which says what their holes stand for."""

from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import Any

import yaml

from agentrefine.files import packaged_text
from agentrefine.worlds.engine import Game
from agentrefine.worlds.language import capitalised, enumeration
from agentrefine.worlds.player import Reason


@cache
def thoughts() -> dict[str, Any]:
    """The templates by kind; under `dm` those of the dungeon master, under `kinds` what an object is called."""
    return dict(yaml.safe_load(packaged_text("agentrefine.worlds", "thoughts.yaml")))


def phrasings() -> Iterator[str]:
    """Every template of a player's thought."""
    yield from (text for texts in thoughts().values() if isinstance(texts, list) for text in texts)
    yield from (thoughts()["short_command"], capitalised(thoughts()["short_command"]), *thoughts()["kinds"].values())


def drawn_thought(kind: str, rng: Random, **holes: str) -> str:
    """A thought of a kind with its holes filled; for a hole with a capital letter, the text is capitalised."""
    capitals = {capitalised(name): capitalised(text) for name, text in holes.items()}
    template: str = rng.choice(thoughts()[kind])
    return template.format(**holes, **capitals)


def expert_thought(game: Game, reason: Reason, cited: str, rng: Random) -> str:
    """What the expert thinks before it acts.

    Args:
        game: before the action.
        reason: why it is taken (`Explorer.reason`).
        cited: what the last error said, in the first person, where the last action was one; else empty. The thought
            does not repeat it as a fact of its own.
        rng: chooses among the phrasings.
    """
    places = game.world.members.get("place", ())
    # Places are always open: that they are is no reason for anything.
    trivial = {f"the {name} is open" for name in places}
    facts = [seen_from(place_of(game), f) for f in reason.facts if f not in trivial and f not in cited]
    if reason.kind == "plan":
        return planned_thought(reason.sub_goal, facts, reason.says, rng)
    sought = reason.looked_for
    if reason.kind_looked_for:
        kind, sought = "explore_for_kind", thoughts()["kinds"][reason.kind_looked_for]
    elif reason.target in places:
        kind = "explore_place"
    else:
        kind = "explore_container_by" if facts else "explore_container"
    holes = {"sub_goal": reason.sub_goal, "sought": sought, "target": reason.target, "action": reason.says}
    return drawn_thought(kind, rng, facts=enumeration(facts) if facts else "", **holes)


def planned_thought(sub_goal: str, facts: Sequence[str], action: str, rng: Random) -> str:
    """A thought that leads from what the player knows, or believes, to an action."""
    if not facts:
        return drawn_thought("planned_without_facts", rng, sub_goal=sub_goal, action=action)
    return drawn_thought("planned", rng, sub_goal=sub_goal, facts=enumeration(facts), action=action)


def after_error(thought: str, cited: str, rng: Random) -> str:
    """A thought that begins with what the last error said, in the first person."""
    return drawn_thought("after_error", rng, cited=cited, thought=thought)


def place_of(game: Game) -> str:
    """Where the player is."""
    return next(fact[1] for fact in game.state if fact[0] == "at")


def seen_from(place: str, fact: str) -> str:
    """`the apple is here` instead of `the apple is in the barn` for a player in the barn."""
    elsewhere = f" is in the {place}"
    return f"{fact.removesuffix(elsewhere)} is here" if fact.endswith(elsewhere) else fact
