"""Scripts: the game a teacher writes for a persona (paper, section 3.1: environment, goal, available actions)."""

from functools import cached_property
from itertools import chain
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentrefine.game.actions import ActionSet, ActionSpec
from agentrefine.game.text import own_writing


class Script(BaseModel):
    """A synthetic game: hidden environment, goal and the actions that the player may take.

    Example: `{"environment": {"hall": {"items": ["lamp"]}}, "goal": "Fetch the lamp.", "completion_conditions": ["The
    player holds the lamp."], "available_actions": {"take {item}": {"description": ...}}}`

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

    @cached_property
    def actions(self) -> ActionSet:
        """The available actions, compiled on first use.

        Raises:
            ValueError: a verification code is no regular expression of the linear-time engine.
        """
        return ActionSet(self.available_actions)

    @cached_property
    def writing(self) -> frozenset[str]:
        """The writing systems of what the player is shown: goal, templates, descriptions and values."""
        shown = [self.goal, *self.completion_conditions]
        for template, spec in self.available_actions.items():
            shown += [template, spec.description, *chain(*spec.parameters.values())]
        return own_writing(shown)

    @cached_property
    def environment_keys(self) -> frozenset[str]:
        """All keys of the environment, at any depth, in lower case."""
        keys: set[str] = set()
        pending: list[Any] = [self.environment]
        while pending:
            item = pending.pop()
            if isinstance(item, dict):
                keys.update(key.casefold() for key in item)
                item = list(item.values())
            if isinstance(item, list):
                pending += item
        return frozenset(keys)
