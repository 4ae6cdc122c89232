"""What the players think, from `thoughts.yaml`."""

from collections.abc import Iterator, Sequence
from functools import cache
from random import Random

import yaml
from pydantic import BaseModel, ConfigDict, Field

from agentrefine.files import packaged_text
from agentrefine.worlds.family import capitalised, enumeration

Phrasings = list[str]

OPENLY_MISTAKEN = 1 / 3
"""Share of the mistaken thoughts that say `I think`; the others are worded as right ones are."""


class DungeonMaster(BaseModel):
    """Templates of the dungeon master's thoughts."""

    model_config = ConfigDict(extra="forbid")

    first: Phrasings = Field(min_length=1)
    done: Phrasings = Field(min_length=1)
    error: Phrasings = Field(min_length=1)
    completed: Phrasings = Field(min_length=1)


class Thoughts(BaseModel):
    """Templates of thoughts; see `thoughts.yaml` for their holes."""

    model_config = ConfigDict(extra="forbid")

    explore_place: Phrasings = Field(min_length=1)
    explore_container: Phrasings = Field(min_length=1)
    explore_container_by: Phrasings = Field(min_length=1)
    explore_for_kind: Phrasings = Field(min_length=1)
    planned: Phrasings = Field(min_length=1)
    planned_without_facts: Phrasings = Field(min_length=1)
    mistaken: Phrasings = Field(min_length=1)
    after_error: Phrasings = Field(min_length=1)
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
    sub_goal: str, sought: str, target: str, facts: Sequence[str], action: str, draw: Random, *, inside: bool
) -> str:
    """A thought that leads to where something has not been looked for yet.

    Args:
        sub_goal: the open condition of the goal that is worked at.
        sought: what is looked for.
        target: the place or container where it may be.
        facts: what the player knows of the way there, as clauses.
        action: the action as a sentence says it.
        draw: chooses the phrasing.
        inside: whether the target is a container.
    """
    known = enumeration(facts) if facts else ""
    inner = thoughts().explore_container_by if facts else thoughts().explore_container
    template = draw.choice(inner if inside else thoughts().explore_place)
    return template.format(sub_goal=sub_goal, sought=sought, target=target, Facts=capitalised(known), action=action)


def searching_thought(sub_goal: str, kind: str, target: str, action: str, draw: Random) -> str:
    """A thought that leads to where something may be that the player needs and has not read of yet.

    Args:
        sub_goal: the open condition of the goal that is worked at.
        kind: the type of what is needed.
        target: the place or container where it may be.
        action: the action as a sentence says it.
        draw: chooses the phrasing.
    """
    template = draw.choice(thoughts().explore_for_kind)
    return template.format(sub_goal=sub_goal, sought=thoughts().kinds[kind], target=target, action=action)


def planned_thought(sub_goal: str, facts: Sequence[str], action: str, draw: Random) -> str:
    """A thought that leads from what the player knows, or believes, to an action.

    Args:
        sub_goal: the open condition of the goal that is worked at.
        facts: what the player acts on, as clauses.
        action: the action as a sentence says it.
        draw: chooses the phrasing.
    """
    if not facts:
        return draw.choice(thoughts().planned_without_facts).format(sub_goal=sub_goal, action=action)
    known = enumeration(facts)
    template = draw.choice(thoughts().planned)
    return template.format(sub_goal=sub_goal, facts=known, Facts=capitalised(known), action=action)


def mistaken_thought(sub_goal: str, belief: str, action: str, draw: Random) -> str:
    """A thought that leads from a wrong belief to a wrong action, on the way to a condition of the goal."""
    if draw.random() < OPENLY_MISTAKEN:
        template = draw.choice(thoughts().mistaken)
        return template.format(sub_goal=sub_goal, belief=belief, Belief=capitalised(belief), action=action)
    return planned_thought(sub_goal, [belief], action, draw)


def after_error(cited: str, thought: str, draw: Random) -> str:
    """A thought that begins with what the last error said."""
    return draw.choice(thoughts().after_error).format(cited=cited, Cited=capitalised(cited), thought=thought)
