"""The prompts of a first script and game (paper, section 3.1: three examples for scripts, one for games).

What is the same for all calls of a persona, rules and examples, stands first, and what differs last, so that a
provider's prompt cache helps. The examples are drawn for each persona by a hash of its id.

Prompts are also read by programs, so parts stand in fixed places: the persona in one line `Persona: ...` at the very
end of every script prompt; the script as one line of JSON in the block under `# Script`. What a retry adds, and where,
says `repair_prompts.py`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from string import Template
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from agentrefine.files import packaged_path, packaged_text, short_hash
from agentrefine.game.personas import Persona
from agentrefine.game.script import Script
from agentrefine.game.trajectory import DMTurn, PlayerTurn, Turn
from agentrefine.llm.completion import ChatMessage
from agentrefine.params import VerificationParams

DEMANDS = VerificationParams()
"""What the rules demand of a game where nothing else is given."""

SCRIPTS_PER_PROMPT = 3
"""Examples of scripts in a prompt."""

ShotT = TypeVar("ShotT", bound=BaseModel)


class ScriptShot(BaseModel):
    """An example of a script: a file of `prompts/shots/scripts`.

    Example: `{"persona": "An archivist who ...", "script": {"environment": {...}, ...}}`

    Attributes:
        persona: the sentence that it was written for.
        script: the script.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    persona: str
    script: Script


class TrajectoryShot(BaseModel):
    """An example of a whole game: a file of `prompts/shots/trajectories`.

    Example: `{"script": "nurse", "turns": [{"turn": 1, "role": "DM", ...}, ...]}`

    Attributes:
        script: name of its script in `script_pool`.
        turns: DM and player in turn, from the first description to the completed task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    script: str
    turns: list[Turn]


@cache
def script_pool() -> Mapping[str, ScriptShot]:
    """All examples of scripts by name."""
    return _pool("scripts", ScriptShot)


@cache
def trajectory_pool() -> Mapping[str, TrajectoryShot]:
    """All examples of games by name."""
    return _pool("trajectories", TrajectoryShot)


def script_shots(persona_id: str) -> list[str]:
    """The names of the `SCRIPTS_PER_PROMPT` examples of scripts that a persona's prompts show, in their order."""
    return _drawn("script", persona_id, script_pool())[:SCRIPTS_PER_PROMPT]


def trajectory_shot(persona_id: str) -> str:
    """The name of the example of a game that a persona's prompts show."""
    return _drawn("trajectory", persona_id, trajectory_pool())[0]


def _drawn(kind: str, persona_id: str, names: Iterable[str]) -> list[str]:
    """All names in a persona's own order: by a hash of each, so that every order is equally likely."""
    return sorted(names, key=lambda name: short_hash("shot", kind, persona_id, name))


def _pool(folder: str, shot: type[ShotT]) -> Mapping[str, ShotT]:
    files = packaged_path("agentrefine.synthesis", "prompts", "shots", folder).iterdir()
    texts = {file.name: file.read_text(encoding="utf-8") for file in files if file.name.endswith(".json")}
    return {name.removesuffix(".json"): shot.model_validate_json(text) for name, text in sorted(texts.items())}


def script_messages(persona: Persona) -> list[ChatMessage]:
    """Asks for a persona's script."""
    text = packaged_text("agentrefine.synthesis", "prompts", "script.md")
    return message(Template(text).substitute(rules=script_rules(persona), persona=persona.text))


def script_rules(persona: Persona) -> str:
    """The rules of a script, with the examples that are drawn for a persona."""
    examples = "\n\n".join(_example_script(name) for name in script_shots(persona.id))
    rules = packaged_text("agentrefine.synthesis", "prompts", "script_rules.md")
    return Template(rules).substitute(examples=examples)


def trajectory_messages(persona: Persona, script: Script, demands: VerificationParams = DEMANDS) -> list[ChatMessage]:
    """Asks for a whole game of a script that meets the demands of the rules."""
    return message(trajectory_prompt(persona, script, demands))


def trajectory_prompt(persona: Persona, script: Script, demands: VerificationParams) -> str:
    """The instructions for a whole game, with the example that is drawn for a persona."""
    example_script, example_turns = _example_game(trajectory_shot(persona.id))
    text = packaged_text("agentrefine.synthesis", "prompts", "trajectory.md")
    return Template(text).substitute(
        mistakes=demands.min_error_refine_turns,
        max_turns=demands.max_turns,
        example_script=example_script,
        example_turns=example_turns,
        script=script.model_dump_json(),
    )


def turns_json(turns: Sequence[DMTurn | PlayerTurn]) -> str:
    """Turns as a JSON list, one turn a line."""
    lines = ",\n".join(json.dumps(turn.model_dump(), ensure_ascii=False) for turn in turns)
    return f"[\n{lines}\n]" if turns else "[]"


@cache
def _example_script(name: str) -> str:
    shot = script_pool()[name]
    return f"Persona: {shot.persona}\n\n```json\n{shot.script.model_dump_json()}\n```"


@cache
def _example_game(name: str) -> tuple[str, str]:
    """The example's script and its turns."""
    shot = trajectory_pool()[name]
    return script_pool()[shot.script].script.model_dump_json(), turns_json(shot.turns)


def message(text: str) -> list[ChatMessage]:
    """A request of one message."""
    return [{"role": "user", "content": text.rstrip("\n")}]
