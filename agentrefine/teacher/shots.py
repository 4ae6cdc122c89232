"""Examples (shots) for the teacher's prompts: a pool of scripts and games, of which each persona draws its own.

The paper shows a teacher the same three scripts and one game every time (section 3.1), which narrows what it writes.
Here `agentrefine/prompts/shots/scripts/` and `.../trajectories/` hold a pool, one file per example; a game's file names
its script. A persona draws by a hash of its id and the example's name, so the draw is the same in every process and for
every call of the persona (a provider's prompt cache then helps), and a new example changes only the prompts of the
personas that draw it: journaled answers of the others stay good.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from agentrefine.files import short_hash
from agentrefine.script import Script
from agentrefine.trajectory import Turn

SCRIPTS_PER_PROMPT = 3

ShotT = TypeVar("ShotT", bound=BaseModel)


class ScriptShot(BaseModel):
    """An example of a script.

    Attributes:
        persona: the sentence that it was written for.
        script: the script.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    persona: str
    script: Script


class TrajectoryShot(BaseModel):
    """An example of a whole game.

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
    files = resources.files("agentrefine.prompts").joinpath("shots", folder).iterdir()
    texts = {file.name: file.read_text(encoding="utf-8") for file in files if file.name.endswith(".json")}
    return {name.removesuffix(".json"): shot.model_validate_json(text) for name, text in sorted(texts.items())}
