"""What the simulated teacher answers to a prompt: a pure function of the prompt and the request's draw."""

from typing import Any

from agentrefine.params.teacher import OfflineTeacher
from agentrefine.simulation import faults
from agentrefine.simulation.game import write_game
from agentrefine.simulation.requests import GameRequest, ScriptRequest, generator, read_request, share, world_for
from agentrefine.worlds.layout import script_of

REFUSAL = (
    "I am the offline teacher, a rule-based stand-in and not a language model. I write scripts for personas and play "
    "the games of scripts that I wrote; I cannot answer anything else."
)
FENCED = 0.2
"""The share of good answers that stand in a Markdown block, as many models write JSON."""


def answer(prompt: str, key: str, sample: int | None, params: OfflineTeacher) -> str:
    """The answer to the last message of a chat.

    Every draw of style, mistakes and faults depends on `key`, which identifies the whole request. Another `sample` (the
    request's `seed`) is another world for the same persona.
    """
    request = read_request(prompt)
    if isinstance(request, ScriptRequest):
        return _script(request, key, sample, params)
    if isinstance(request, GameRequest):
        return _game(request, key, params)
    return REFUSAL


def _script(request: ScriptRequest, key: str, sample: int | None, params: OfflineTeacher) -> str:
    # The world depends on persona and sample alone, so a script written again after feedback is of the same world.
    world = world_for(request.persona, sample)
    script: dict[str, Any] = script_of(world).model_dump()
    rng = generator("script fault", key)
    if rng.random() < params.script_faults:
        return faults.spoil_script(script, rng)
    return _dressed(faults.script_text(script), key)


def _game(request: GameRequest, key: str, params: OfflineTeacher) -> str:
    rng = generator("game fault", key)
    faulty = rng.random() < params.trajectory_faults
    # A game without its mistakes is a fault of the writing; every other one is added to a good game.
    too_clean = faulty and rng.randrange(len(faults.TRAJECTORY_FAULTS) + 1) == 0
    fewest, most = (0, 1) if too_clean else params.mistakes
    turns = write_game(request.world, request.kept, (fewest, most), generator("game", key))
    if faulty and not too_clean and turns:
        return faults.spoil_turns(turns, request.environment, rng)
    return _dressed(faults.turns_text(turns), key)


def _dressed(text: str, key: str) -> str:
    return f"```json\n{text}\n```" if share("fence", key) < FENCED else text
