"""Reads the prompts of `agentrefine.synthesis.prompts` back: what is asked for, and of which world."""

import hashlib
import json
import re
from functools import cache, lru_cache
from random import Random
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter

from agentrefine.errors import UserError
from agentrefine.files import packaged_text
from agentrefine.game.trajectory import DMTurn, PlayerTurn, Turn
from agentrefine.llm.completion import SAMPLES_PER_CALL
from agentrefine.worlds.catalogue import families, family, theme, themes
from agentrefine.worlds.layout import EVALUATION_SEEDS, World, world_from_id

PERSONA_LINE = re.compile(r"\nPersona: ([^\n]+)\s*\Z")
SCRIPT_BLOCK = re.compile(r"\n# Script\n\n```json\n(.+)\n```")
TURNS_BLOCK = re.compile(r"\n# Turns so far\n\n```json\n(\[.*?\])\n```", re.DOTALL)

_TURNS: TypeAdapter[list[DMTurn | PlayerTurn]] = TypeAdapter(list[Turn])


class ScriptRequest(NamedTuple):
    """A script is wanted, for a persona."""

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
    scripts = SCRIPT_BLOCK.findall(prompt)
    if scripts:
        return _game_request(scripts[-1], (TURNS_BLOCK.findall(prompt) or ["[]"])[-1])
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
    for_teaching = (family(world.family).split, theme(world.theme).split) == ("train", "train")
    return GameRequest(world, environment, kept) if for_teaching and 0 <= world.seed < EVALUATION_SEEDS else None


def world_for(persona: str, sample: int | None) -> World:
    """The world of a persona's sample, the same one in all of its calls. Samples in a row get different families.

    Args:
        persona: the sentence.
        sample: the request's `seed`, which holds the sample and the call (`SAMPLES_PER_CALL`).
    """
    number = (sample or 0) % SAMPLES_PER_CALL
    names = [definition.name for definition in families("train")]
    drawn = names[(int(share("family", persona) * len(names)) + number) % len(names)]
    seed = int(share("layout", persona, str(number)) * EVALUATION_SEEDS)
    return world_of(f"{drawn}.{_theme(persona, number)}.{seed}")


def _theme(persona: str, number: int) -> str:
    for word in re.findall(r"\w+", persona.lower()):
        if word in theme_words():
            return theme_words()[word]
    names = [definition.name for definition in themes("train")]
    return names[int(share("theme", persona, str(number)) * len(names))]


@cache
def theme_words() -> dict[str, str]:
    """For each word that calls for a theme, the theme."""
    text = packaged_text("agentrefine.simulation", "themes.yaml")
    return {word: name for name, words in yaml.safe_load(text).items() for word in words}


world_of = lru_cache(maxsize=2048)(world_from_id)
"""The world of an id; those asked for lately are kept, since drawing one takes a while."""


def share(*parts: str) -> float:
    """A number in [0, 1) drawn from the parts."""
    return int.from_bytes(_digest(parts)[:7], "big") / 2**56


def generator(*parts: str) -> Random:
    """A random generator seeded by the parts."""
    return Random(int.from_bytes(_digest(parts)[:8], "big"))


def _digest(parts: tuple[str, ...]) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
