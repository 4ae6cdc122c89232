"""A small script and its games, as a teacher writes them: plain JSON values, easy to spoil."""

import json
from typing import Any

from agentrefine.game.script import Script

Step = tuple[str, str]
"""A player's action and the kind of error that the DM flags: "", "parameter", "logic" or "place"."""

GOOD_STEPS: list[Step] = [
    ("grab the lamp", "parameter"),
    ("take lamp", ""),
    ("take rope", "place"),
    ("go to cellar", ""),
    ("take rope", ""),
]


def script_value() -> dict[str, Any]:
    return {
        "environment": {
            "hall": {"table": {"items": ["lamp", "old map"]}},
            "cellar": {"chest": {"state": "open", "items": ["rope"]}},
            "player": {"place": "hall", "holds": []},
        },
        "goal": "Fetch the lamp and the rope.",
        "completion_conditions": ["The player holds the lamp.", "The player holds the rope."],
        "available_actions": {
            "go to {place}": {
                "description": "Walk to a place.",
                "verification_code": "^go to (hall|cellar)$",
                "parameters": {"place": ["hall", "cellar"]},
            },
            "take {item}": {
                "description": "Take an item that is here.",
                "verification_code": "^take [a-z ]+$",
                "parameters": {"item": ["lamp", "old map", "rope"]},
            },
            "look": {"description": "Look around.", "verification_code": "^look$", "parameters": {}},
        },
    }


def script() -> Script:
    return Script.model_validate(script_value())


def script_text() -> str:
    return json.dumps(script_value())


def dm(turn: int, error: str = "", completed: bool = False, observation: str = "") -> dict[str, Any]:
    return {
        "turn": turn,
        "role": "DM",
        "thought": "The player knows little.",
        "observation": observation or f"You see something ({turn}).",
        "parameter_error": error == "parameter",
        "logic_error": error == "logic",
        "place_error": error == "place",
        "task_completed": completed,
    }


def player(turn: int, action: str) -> dict[str, Any]:
    return {"turn": turn, "role": "Player", "thought": f"I try to {action}.", "action": action}


def game(steps: list[Step] | None = None, completed: bool = True) -> list[dict[str, Any]]:
    """The turns of a game; its last turn completes the task when `completed`."""
    steps = GOOD_STEPS if steps is None else steps
    turns = [dm(1)]
    for number, (action, error) in enumerate(steps, start=1):
        turns += [player(2 * number, action), dm(2 * number + 1, error, completed and number == len(steps))]
    return turns


def game_text(steps: list[Step] | None = None, completed: bool = True) -> str:
    return json.dumps(game(steps, completed))
