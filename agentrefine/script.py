"""Scripts: the game a teacher writes for a persona (paper, section 3.1: environment, goal, available actions)."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
"""A placeholder of an action template, such as `{path}` in `cd {path}`."""


class ActionSpec(BaseModel):
    """One action that the player may take.

    Attributes:
        description: what the action does, shown to the player.
        verification_code: a regular expression that a well-formed action matches from start to end; it comes from a
            teacher, so it runs in a linear-time engine only.
        parameters: for each placeholder of the template, its valid values.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    description: str = Field(min_length=1)
    verification_code: str = Field(min_length=1)
    parameters: dict[str, list[str]]


class Script(BaseModel):
    """A synthetic game: hidden environment, goal and the actions that the player may take.

    Attributes:
        environment: places, items and the player, nested so that containment is visible; never shown to the player.
        goal: one clear task.
        completion_conditions: what must hold for the goal to count as done.
        available_actions: action template, such as `cd {path}`, to its specification.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    environment: dict[str, Any] = Field(min_length=1)
    goal: str = Field(min_length=1)
    completion_conditions: list[str] = Field(min_length=1)
    available_actions: dict[str, ActionSpec] = Field(min_length=1)
