"""What the players think, from `thoughts.yaml`."""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from random import Random

import yaml
from pydantic import BaseModel, ConfigDict, Field

_HOLE = re.compile(r"\{\w+\}")

Wordings = list[str]


class DungeonMaster(BaseModel):
    """Templates of the dungeon master's thoughts."""

    model_config = ConfigDict(extra="forbid")

    first: str
    done: str
    error: str
    completed: str


class Thoughts(BaseModel):
    """Templates of thoughts; see `thoughts.yaml` for their holes."""

    model_config = ConfigDict(extra="forbid")

    exploring: Wordings = Field(min_length=1)
    exploring_with_facts: Wordings = Field(min_length=1)
    planned: Wordings = Field(min_length=1)
    planned_without_facts: Wordings = Field(min_length=1)
    mistaken: Wordings = Field(min_length=1)
    after_error: str
    unknown_command: str
    dm: DungeonMaster


@cache
def thoughts() -> Thoughts:
    """The templates."""
    text = resources.files("agentrefine.teacher.offline").joinpath("thoughts.yaml").read_text(encoding="utf-8")
    return Thoughts.model_validate(yaml.safe_load(text))


def words() -> frozenset[str]:
    """Every word (between spaces, punctuation included) that a player's thought can add to the words of the worlds."""
    templates: list[str] = []
    for value in thoughts().model_dump(exclude={"dm"}).values():
        templates += [value] if isinstance(value, str) else value
    # An error is cited with its negation.
    return frozenset(word for template in templates for word in template.split() if not _HOLE.search(word)) | {"not"}


def expert_thought(sub_goal: str, sought: str, facts: Sequence[str], action: str, draw: Random) -> str:
    """A thought that leads to the right action.

    Args:
        sub_goal: the open condition of the goal that is worked at.
        sought: what is looked for; empty when the way is known.
        facts: what the player knows and acts on.
        action: the action.
        draw: chooses the wording.
    """
    known = " . ".join(facts)
    if sought:
        wordings = thoughts().exploring_with_facts if facts else thoughts().exploring
    else:
        wordings = thoughts().planned if facts else thoughts().planned_without_facts
    return draw.choice(wordings).format(sub_goal=sub_goal, sought=sought, facts=known, action=action)


def mistaken_thought(sub_goal: str, belief: str, action: str, draw: Random) -> str:
    """A thought that leads from a wrong belief to a wrong action, on the way to a condition of the goal."""
    return draw.choice(thoughts().mistaken).format(sub_goal=sub_goal, belief=belief, action=action)


def after_error(cited: str, thought: str) -> str:
    """A thought that begins with what the last error said."""
    return thoughts().after_error.format(cited=cited, thought=thought)
