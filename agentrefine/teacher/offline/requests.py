"""Reads the prompts of `agentrefine.teacher.prompts` back: what is asked for, and from where a game goes on."""

import json
import re
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from agentrefine.errors import UserError
from agentrefine.teacher.offline.themes import is_for_teaching, world_of
from agentrefine.trajectory import DMTurn, PlayerTurn, Turn
from agentrefine.worlds.layout import World

PERSONA_LINE = re.compile(r"\nPersona: ([^\n]+)\s*\Z")
SCRIPT_BLOCK = re.compile(r"\n# Script\n\n```json\n(.+)\n```")
TURNS_BLOCK = re.compile(r"\n# Turns so far\n\n```json\n(\[.*?\])\n```", re.DOTALL)

_TURNS: TypeAdapter[list[DMTurn | PlayerTurn]] = TypeAdapter(list[Turn])


class ScriptRequest(NamedTuple):
    """A script is wanted.

    Attributes:
        persona: who it is for.
    """

    persona: str


class GameRequest(NamedTuple):
    """A game is wanted, or the rest of one.

    Attributes:
        world: the world that the script describes.
        environment: the script's hidden environment.
        kept: the turns that stand already; empty for a game from the start.
    """

    world: World
    environment: dict[str, Any]
    kept: list[DMTurn | PlayerTurn]


def read_request(prompt: str) -> ScriptRequest | GameRequest | None:
    """What a prompt asks for, or None when it is no prompt of ours or its script is no world of ours."""
    # The last heading counts: the blocks before it are examples.
    script = _last(SCRIPT_BLOCK, prompt)
    if script is not None:
        return _game_request(script, _last(TURNS_BLOCK, prompt) or "[]")
    persona = PERSONA_LINE.search(prompt)
    if persona is not None and '"available_actions"' in prompt:
        return ScriptRequest(persona.group(1).strip())
    return None


def _game_request(script: str, turns: str) -> GameRequest | None:
    try:
        environment = json.loads(script)["environment"]
        world = world_of(environment["world"])
        kept = _TURNS.validate_json(turns)
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return None
    return GameRequest(world, environment, kept) if is_for_teaching(world) else None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = None
    for match in pattern.finditer(text):
        found = match.group(1)
    return found
