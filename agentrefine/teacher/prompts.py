"""The prompts of synthesis and refinement (paper, section 3.1: three examples for scripts, one for games).

Prompts are also read by programs, so parts stand in fixed places: the persona in one line `Persona: ...` at the very
end of both script prompts; the script as one line of JSON in the block under `# Script`; the kept turns as a JSON list
in the block under `# Turns so far`; the feedback in one line of its own under `# What to change`.
"""

import json
from collections.abc import Sequence
from functools import cache
from string import Template
from typing import Any

from agentrefine.conversation import prompt
from agentrefine.personas import Persona
from agentrefine.script import Script
from agentrefine.teacher.completion import ChatMessage
from agentrefine.trajectory import DMTurn, PlayerTurn, error_refine_turns

PROMPT_VERSION = "1"
"""Changes whenever a prompt's text does."""


def prompt_version(kind: str) -> str:
    """The version."""
    return PROMPT_VERSION


SCRIPT_SHOTS = ("script_nurse.json", "script_archivist.json", "script_baker.json")
TRAJECTORY_SHOT = ("script_nurse.json", "trajectory_nurse.json")
LONGEST_FEEDBACK = 1000
"""Characters of feedback that a prompt passes on."""


def script_messages(persona: Persona) -> list[ChatMessage]:
    """Asks for a persona's script."""
    return _message(_template("script.md").substitute(rules=_script_rules(), persona=persona.text))


def script_retry_messages(persona: Persona, feedback: str) -> list[ChatMessage]:
    """Asks for a persona's script again, saying what was wrong with the last one."""
    return _message(
        _template("script_retry.md").substitute(
            rules=_script_rules(), feedback=_one_line(feedback), persona=persona.text
        )
    )


def trajectory_messages(script: Script, *, mistakes: int = 2, max_turns: int = 60) -> list[ChatMessage]:
    """Asks for a whole game of a script: `mistakes` corrected mistakes at least, `max_turns` turns at most."""
    return _message(_trajectory_prompt(script, mistakes, max_turns))


def continuation_messages(
    script: Script,
    kept: Sequence[DMTurn | PlayerTurn],
    feedback: str,
    *,
    mistakes: int = 2,
    max_turns: int = 60,
) -> list[ChatMessage]:
    """Asks for the turns after `kept`, which ends with a DM turn; for the whole game anew when `kept` is empty."""
    return _message(
        _template("continuation.md").substitute(
            instructions=_trajectory_prompt(script, mistakes, max_turns),
            turns=turns_json([turn.model_dump() for turn in kept]),
            feedback=_one_line(feedback),
            next_turn=len(kept) + 1,
            next_role="the Player" if kept else "the DM",
            corrected=error_refine_turns(kept),
        )
    )


def turns_json(turns: Sequence[dict[str, Any]]) -> str:
    """Turns as a JSON list, one turn a line."""
    lines = ",\n".join(json.dumps(turn, ensure_ascii=False) for turn in turns)
    return f"[\n{lines}\n]" if turns else "[]"


def _trajectory_prompt(script: Script, mistakes: int, max_turns: int) -> str:
    example_script, example_turns = TRAJECTORY_SHOT
    return _template("trajectory.md").substitute(
        mistakes=mistakes,
        max_turns=max_turns,
        example_script=json.dumps(script_shot(example_script)["script"], ensure_ascii=False),
        example_turns=turns_json(trajectory_shot(example_turns)),
        script=script.model_dump_json(),
    )


@cache
def _script_rules() -> str:
    examples = "\n\n".join(
        f"Persona: {example['persona']}\n\n```json\n{json.dumps(example['script'], ensure_ascii=False)}\n```"
        for example in map(script_shot, SCRIPT_SHOTS)
    )
    return _template("script_rules.md").substitute(examples=examples)


@cache
def script_shot(name: str) -> dict[str, Any]:
    """A persona with its script, as prompts show them: keys `persona` and `script`."""
    example: dict[str, Any] = json.loads(prompt(f"shots/{name}"))
    return example


@cache
def trajectory_shot(name: str) -> list[dict[str, Any]]:
    """The turns of a whole game, as prompts show them."""
    turns: list[dict[str, Any]] = json.loads(prompt(f"shots/{name}"))
    return turns


@cache
def _template(name: str) -> Template:
    return Template(prompt(name))


def _message(text: str) -> list[ChatMessage]:
    return [{"role": "user", "content": text.rstrip("\n")}]


def _one_line(feedback: str) -> str:
    text = " ".join(feedback.split())
    return text if len(text) <= LONGEST_FEEDBACK else text[:LONGEST_FEEDBACK] + " ..."
