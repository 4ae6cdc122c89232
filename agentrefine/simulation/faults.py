"""Bad answers: each fault turns a good answer into a text of the kind that language models write.

A fault changes a copy of the answer (`spoilt`), or returns the text itself. An answer that gives
it nothing to spoil (no error turn to unflag in a short continuation) leaves its `rng.choice` without a choice.
"""

import copy
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

from agentrefine.worlds.engine import MISTAKE_KINDS

Record = dict[str, Any]
Good = Record | list[Record]
"""A good answer: a script, or the turns of a game."""
Fault = Callable[..., str | None]
"""Of a script: `(script, rng)`. Of a game: `(turns, rng, environment)`."""

UNKNOWN_ACTIONS = ("wait for help", "please help me", "think about the goal", "shout loudly", "do something else")
UNKNOWN_VALUES = ("unicorn", "stardust", "hoverboard", "wormhole")


def answer_text(good: Good) -> str:
    """A good answer as a text."""
    if isinstance(good, dict):
        return json.dumps(good, ensure_ascii=False)
    return "[" + ",\n".join(map(answer_text, good)) + "]"


def regex_rejects_own_action(script: Record, rng: Random) -> None:
    """A verification code that demands a word which the template does not have."""
    action = _drawn_action(script, rng)
    action["verification_code"] = r"(?:please|kindly) \w+" + rng.choice([r"( \w+)*", r" the \w+", ""])


def lookahead_in_regex(script: Record, rng: Random) -> None:
    """A verification code that no linear-time engine can run."""
    action = _drawn_action(script, rng)
    action["verification_code"] = "(?=.+)" + action["verification_code"]


def script_without_key(script: Record, rng: Random) -> None:
    """A key is missing, at the top or in an action."""
    if rng.random() < 0.5:
        del script[rng.choice(["environment", "goal", "completion_conditions", "available_actions"])]
    else:
        action = _drawn_action(script, rng)
        del action[rng.choice(["description", "verification_code", "parameters"])]


def script_cut_off(script: Record, rng: Random) -> str:
    """The answer stops in the middle of the environment."""
    text = answer_text(script)
    return text[: int(len(text) * rng.uniform(0.1, 0.5))]


def value_not_in_environment(script: Record, rng: Random) -> None:
    """A placeholder may take a value that names nothing."""
    parameters = _drawn_parameters(script, rng)
    parameters[rng.choice(sorted(parameters))].append(rng.choice(UNKNOWN_VALUES))


def ambiguous_templates(script: Record, rng: Random) -> None:
    """Two templates that differ in the name of a placeholder only."""
    actions = script["available_actions"]
    template = rng.choice(sorted(template for template, action in actions.items() if action["parameters"]))
    action = copy.deepcopy(actions[template])
    name = rng.choice(sorted(action["parameters"]))
    action["parameters"][f"another_{name}"] = action["parameters"].pop(name)
    actions[template.replace("{" + name + "}", "{another_" + name + "}")] = action


def placeholder_without_values(script: Record, rng: Random) -> None:
    """A placeholder that `parameters` does not know."""
    parameters = _drawn_parameters(script, rng)
    del parameters[rng.choice(sorted(parameters))]


def script_in_prose(script: Record, rng: Random) -> str:
    """A summary instead of a script."""
    return f"{rng.choice(['Sure!', 'Of course.', 'Here is my idea.'])} The goal of the game would be: {script['goal']}"


def unflagged_parameter_error(turns: list[Record], rng: Random, environment: Record) -> None:
    """The player says what is no action and the DM does not mind."""
    pairs = _answered(turns)
    flagged = [(player, dm) for player, dm in pairs if dm["parameter_error"]]
    player, dm = rng.choice(flagged or pairs)
    if not flagged:
        player["action"] = rng.choice(UNKNOWN_ACTIONS)
        dm.update(dict.fromkeys(MISTAKE_KINDS, False))
    dm["parameter_error"] = False


def false_alarm(turns: list[Record], rng: Random, environment: Record) -> None:
    """The DM calls a well-formed action with valid values unknown."""
    rng.choice([dm for _, dm in _answered(turns) if not _is_error(dm)])["parameter_error"] = True


def turn_without_key(turns: list[Record], rng: Random, environment: Record) -> None:
    """A turn lacks one of its keys."""
    turn = rng.choice(turns)
    del turn[rng.choice(sorted(turn.keys() - {"turn", "role"}))]


def game_in_prose(turns: list[Record], rng: Random, environment: Record) -> str:
    """The game as a stage play: not JSON."""
    return "\n".join(f"{turn['role']}: {turn.get('observation') or turn.get('action')}" for turn in turns)


def game_cut_off(turns: list[Record], rng: Random, environment: Record) -> str:
    """The answer stops in the middle."""
    text = answer_text(turns)
    return text[: int(len(text) * rng.uniform(0.3, 0.9))]


def unfinished(turns: list[Record], rng: Random, environment: Record) -> None:
    """The game ends before the goal is reached."""
    end = rng.choice([index for index, turn in enumerate(turns[:-1]) if turn["role"] == "DM" and index > 0])
    del turns[end + 1 :]


def correction_repeats_failure(turns: list[Record], rng: Random, environment: Record) -> None:
    """After a logic or place error the player does the same again, and now it works."""
    corrected = [
        (failed, other)
        for (failed, refusal), (other, answer) in pairwise(_answered(turns))
        if (refusal["logic_error"] or refusal["place_error"]) and not _is_error(answer)
    ]
    failed, other = rng.choice(corrected)
    other["action"] = failed["action"]


def leaked_environment(turns: list[Record], rng: Random, environment: Record) -> None:
    """An observation quotes the hidden environment."""
    turn = rng.choice([turn for turn in turns if turn["role"] == "DM"])
    turn["observation"] += " " + json.dumps(environment, ensure_ascii=False)


def completed_too_early(turns: list[Record], rng: Random, environment: Record) -> None:
    """The DM declares the game won and plays on."""
    rng.choice([turn for turn in turns[:-1] if turn["role"] == "DM"])["task_completed"] = True


def turn_left_out(turns: list[Record], rng: Random, environment: Record) -> None:
    """The DM speaks twice, because a player turn is missing."""
    del turns[rng.choice([index for index, turn in enumerate(turns) if turn["role"] == "Player"])]


SCRIPT_FAULTS: tuple[Fault, ...] = (
    regex_rejects_own_action,
    lookahead_in_regex,
    script_without_key,
    script_cut_off,
    value_not_in_environment,
    ambiguous_templates,
    placeholder_without_values,
    script_in_prose,
)
TRAJECTORY_FAULTS: tuple[Fault, ...] = (
    unflagged_parameter_error,
    false_alarm,
    turn_without_key,
    game_in_prose,
    game_cut_off,
    unfinished,
    correction_repeats_failure,
    leaked_environment,
    completed_too_early,
    turn_left_out,
)


def spoilt(fault: Fault, good: Good, rng: Random, *environment: Record) -> str | None:
    """An answer with a fault; None where it has nothing to spoil. The good answer itself stays as it is."""
    copied = copy.deepcopy(good)
    try:
        return fault(copied, rng, *environment) or answer_text(copied)
    except IndexError:
        return None


def spoil(faults: Sequence[Fault], good: Good, rng: Random, *environment: Record) -> str:
    """An answer with one fault drawn from all."""
    texts = (spoilt(fault, good, rng, *environment) for fault in rng.sample(faults, len(faults)))
    return next(filter(None, texts), answer_text(good))


def _drawn_action(script: Record, rng: Random) -> Record:
    actions: dict[str, Record] = script["available_actions"]
    return actions[rng.choice(sorted(actions))]


def _drawn_parameters(script: Record, rng: Random) -> dict[str, list[str]]:
    """The parameters of an action that has some."""
    return rng.choice([spec["parameters"] for spec in script["available_actions"].values() if spec["parameters"]])


def _answered(turns: list[Record]) -> list[tuple[Record, Record]]:
    """Player turns with the DM turns that answer them."""
    return [(player, dm) for player, dm in pairwise(turns) if (player["role"], dm["role"]) == ("Player", "DM")]


def _is_error(turn: Record) -> bool:
    return any(turn[kind] for kind in MISTAKE_KINDS)
