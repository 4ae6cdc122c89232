"""What the simulated teacher answers to a prompt of `agentrefine.synthesis.prompts`: a function of prompt and draw."""

import hashlib
import json
import re
from functools import cache
from random import Random
from typing import Any

import yaml
from pydantic import TypeAdapter

from agentrefine.errors import UserError
from agentrefine.files import packaged_text
from agentrefine.game.trajectory import DMTurn, PlayerTurn, Turn
from agentrefine.llm.completion import SAMPLES_PER_CALL
from agentrefine.params.teacher import SimulatedTeacher
from agentrefine.simulation import faults
from agentrefine.simulation.game import world_of, write_game
from agentrefine.worlds.catalogue import all_families, all_themes, families, themes
from agentrefine.worlds.layout import EVALUATION_SEEDS, World, script_of

REFUSAL = (
    "I am the simulated teacher, a program and not a language model. I write scripts for personas and play the games "
    "of scripts that I wrote; I cannot answer anything else."
)
FENCED_SHARE = 0.2
"""The share of good answers that stand in a Markdown block, as many models write JSON."""

PERSONA_LINE = re.compile(r"\nPersona: ([^\n]+)\s*\Z")
SCRIPT_BLOCK = re.compile(r"\n# Script\n\n```json\n(.+)\n```")
TURNS_BLOCK = re.compile(r"\n# Turns so far\n\n```json\n(\[.*?\])\n```", re.DOTALL)

_TURNS: TypeAdapter[list[DMTurn | PlayerTurn]] = TypeAdapter(list[Turn])


def answer(prompt: str, key: str, sample: int | None, params: SimulatedTeacher) -> str:
    """The answer to the last message of a chat.

    Every draw of style, mistakes and faults depends on `key`, which identifies the whole request. Another `sample` (the
    request's `seed`) is another world for the same persona.
    """
    # The last heading counts: the blocks before it are examples.
    scripts = SCRIPT_BLOCK.findall(prompt)
    if scripts:
        return _game(scripts[-1], (TURNS_BLOCK.findall(prompt) or ["[]"])[-1], key, params)
    persona = PERSONA_LINE.search(prompt)
    if persona is not None and '"available_actions"' in prompt:
        return _script(persona.group(1).strip(), key, sample, params)
    return REFUSAL


def _script(persona: str, key: str, sample: int | None, params: SimulatedTeacher) -> str:
    # The world depends on persona and sample alone, so a script written again after feedback is of the same world.
    script: dict[str, Any] = script_of(world_for(persona, sample)).model_dump()
    rng = generator("script fault", key)
    if rng.random() < params.script_faults:
        return faults.spoil(faults.SCRIPT_FAULTS, script, rng)
    return _maybe_fenced(faults.answer_text(script), key)


def _game(script: str, turns: str, key: str, params: SimulatedTeacher) -> str:
    """The game of a script, or what comes after its turns; a refusal where the script is no world to train on."""
    try:
        environment = json.loads(script)["environment"]
        world = world_of(environment["world"])
        kept = _TURNS.validate_json(turns)
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return REFUSAL
    splits = (all_families()[world.family].split, all_themes()[world.theme].split)
    if splits != ("train", "train") or not 0 <= world.seed < EVALUATION_SEEDS:
        return REFUSAL
    rng = generator("game fault", key)
    faulty = rng.random() < params.trajectory_faults
    # A game without its mistakes is a fault of the writing; every other one is added to a good game.
    too_clean = faulty and rng.randrange(len(faults.TRAJECTORY_FAULTS) + 1) == 0
    fewest, most = (0, 1) if too_clean else params.mistakes
    written = write_game(world, kept, (fewest, most), generator("game", key))
    if faulty and not too_clean and written:
        return faults.spoil(faults.TRAJECTORY_FAULTS, written, rng, environment)
    return _maybe_fenced(faults.answer_text(written), key)


def _maybe_fenced(text: str, key: str) -> str:
    return f"```json\n{text}\n```" if uniform_of("fence", key) < FENCED_SHARE else text


def world_for(persona: str, sample: int | None) -> World:
    """The world of a persona's sample, the same one in all of its calls. Samples in a row get different families.

    Args:
        persona: the sentence.
        sample: the request's `seed`, which holds the sample and the call (`SAMPLES_PER_CALL`).
    """
    number = (sample or 0) % SAMPLES_PER_CALL
    names = [definition.name for definition in families("train")]
    drawn = names[(int(uniform_of("family", persona) * len(names)) + number) % len(names)]
    seed = int(uniform_of("layout", persona, str(number)) * EVALUATION_SEEDS)
    return world_of(f"{drawn}.{_theme(persona, number)}.{seed}")


def _theme(persona: str, number: int) -> str:
    for word in re.findall(r"\w+", persona.lower()):
        if word in theme_words():
            return theme_words()[word]
    names = [definition.name for definition in themes("train")]
    return names[int(uniform_of("theme", persona, str(number)) * len(names))]


@cache
def theme_words() -> dict[str, str]:
    """For each word that calls for a theme, the theme."""
    text = packaged_text("agentrefine.simulation", "themes.yaml")
    return {word: name for name, words in yaml.safe_load(text).items() for word in words}


def uniform_of(*parts: str) -> float:
    """A number in [0, 1) drawn from the parts."""
    return int.from_bytes(_digest(parts)[:7], "big") / 2**56


def generator(*parts: str) -> Random:
    """A random generator seeded by the parts."""
    return Random(int.from_bytes(_digest(parts)[:8], "big"))


def _digest(parts: tuple[str, ...]) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
