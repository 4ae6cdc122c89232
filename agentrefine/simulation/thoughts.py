"""What the players think, from `thoughts.yaml`."""

from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

from agentrefine.files import packaged_text
from agentrefine.worlds.family import capitalised, enumeration

Phrasings = Annotated[list[str], Field(min_length=1)]

OPENLY_MISTAKEN = 1 / 3
"""The share of the mistaken thoughts that say `I think`; the others are phrased as right ones are."""


class DungeonMaster(BaseModel):
    """Templates of the dungeon master's thoughts."""

    model_config = ConfigDict(extra="forbid")

    first: Phrasings
    done: Phrasings
    error: Phrasings
    completed: Phrasings


class Thoughts(BaseModel):
    """Templates of thoughts; see `thoughts.yaml` for their holes."""

    model_config = ConfigDict(extra="forbid")

    explore_place: Phrasings
    explore_container: Phrasings
    explore_container_by: Phrasings
    explore_for_kind: Phrasings
    planned: Phrasings
    planned_without_facts: Phrasings
    mistaken: Phrasings
    after_error: Phrasings
    kinds: dict[str, str]
    short_command: str
    dm: DungeonMaster


@cache
def thoughts() -> Thoughts:
    """The templates."""
    text = packaged_text("agentrefine.simulation", "thoughts.yaml")
    return Thoughts.model_validate(yaml.safe_load(text))


def phrasings() -> Iterator[str]:
    """Every template of a player's thought."""
    for value in thoughts().model_dump(exclude={"dm", "kinds", "short_command"}).values():
        yield from value
    yield from (thoughts().short_command, capitalised(thoughts().short_command), *thoughts().kinds.values())


def exploring_thought(
    sub_goal: str, sought: str, target: str, facts: Sequence[str], action: str, rng: Random, *, inside: bool
) -> str:
    """A thought that leads to where something has not been looked for yet.

    Args:
        sub_goal: the open condition of the goal that is worked at.
        sought: what is looked for.
        target: the place or container where it may be.
        facts: what the player knows and acts on, as clauses.
        action: the action as a sentence says it.
        rng: chooses the phrasing.
        inside: whether the target is a container.
    """
    known = enumeration(facts) if facts else ""
    inner = thoughts().explore_container_by if facts else thoughts().explore_container
    template = rng.choice(inner if inside else thoughts().explore_place)
    return template.format(sub_goal=sub_goal, sought=sought, target=target, Facts=capitalised(known), action=action)


def searching_thought(sub_goal: str, kind: str, target: str, action: str, rng: Random) -> str:
    """A thought that leads to where something of a type may be that the player needs and has not read of yet.

    The other arguments are those of `exploring_thought`.
    """
    template = rng.choice(thoughts().explore_for_kind)
    return template.format(sub_goal=sub_goal, sought=thoughts().kinds[kind], target=target, action=action)


def planned_thought(sub_goal: str, facts: Sequence[str], action: str, rng: Random) -> str:
    """A thought that leads from what the player knows, or believes, to an action. See `exploring_thought`."""
    if not facts:
        return rng.choice(thoughts().planned_without_facts).format(sub_goal=sub_goal, action=action)
    known = enumeration(facts)
    template = rng.choice(thoughts().planned)
    return template.format(sub_goal=sub_goal, facts=known, Facts=capitalised(known), action=action)


def mistaken_thought(sub_goal: str, belief: str, action: str, rng: Random) -> str:
    """A thought that leads from a wrong belief to a wrong action, on the way to a condition of the goal."""
    if rng.random() < OPENLY_MISTAKEN:
        template = rng.choice(thoughts().mistaken)
        return template.format(sub_goal=sub_goal, belief=belief, Belief=capitalised(belief), action=action)
    return planned_thought(sub_goal, [belief], action, rng)


def after_error(cited: str, thought: str, rng: Random) -> str:
    """A thought that begins with what the last error said."""
    return rng.choice(thoughts().after_error).format(cited=cited, Cited=capitalised(cited), thought=thought)
