"""What the players think, from `thoughts.yaml`."""

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from agentrefine.files import packaged_text
from agentrefine.worlds.language import capitalised

Phrasings = Annotated[list[str], Field(min_length=1)]


class Thoughts(BaseModel):
    """Templates of the player's thoughts, and of the dungeon master's; see `thoughts.yaml` for their holes.

    Example: `{explore_place: ["Still no {sought}. I'll {action} and look there.", ...], planned: [...], ...}`
    """

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
