"""What the players think, from `thoughts.yaml`."""

from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from agentrefine.files import packaged_text
from agentrefine.worlds.family import capitalised, enumeration

Phrasings = Annotated[list[str], Field(min_length=1)]

OPENLY_MISTAKEN = 1 / 3
"""The share of the mistaken thoughts that say `I think`; the others are phrased as right ones are."""


class Thoughts(BaseModel):
    """Templates of the player's thoughts, and of the dungeon master's; see `thoughts.yaml` for their holes."""

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
    dm: dict[Literal["first", "done", "error", "completed"], Phrasings]


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


def filled(templates: Phrasings, rng: Random, **holes: str) -> str:
    """One of the templates with its holes filled; for a hole with a capital letter, the text is capitalised."""
    capitals = {capitalised(name): capitalised(text) for name, text in holes.items()}
    return rng.choice(templates).format(**holes, **capitals)


def planned_thought(sub_goal: str, facts: Sequence[str], action: str, rng: Random) -> str:
    """A thought that leads from what the player knows, or believes, to an action.

    Args:
        sub_goal: the open condition of the goal that is worked at.
        facts: what the player acts on, as clauses.
        action: the action as a sentence says it.
        rng: chooses the phrasing.
    """
    if not facts:
        return filled(thoughts().planned_without_facts, rng, sub_goal=sub_goal, action=action)
    return filled(thoughts().planned, rng, sub_goal=sub_goal, facts=enumeration(facts), action=action)


def mistaken_thought(sub_goal: str, belief: str, action: str, rng: Random) -> str:
    """A thought that leads from a wrong belief to a wrong action, on the way to a condition of the goal."""
    if rng.random() < OPENLY_MISTAKEN:
        return filled(thoughts().mistaken, rng, sub_goal=sub_goal, belief=belief, action=action)
    return planned_thought(sub_goal, [belief], action, rng)
