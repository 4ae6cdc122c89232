"""Bad answers: each fault turns a good answer into a text of the kind that language models write.

A fault changes a copy of the answer (`spoilt_script`, `spoilt_turns`), or returns the text itself. An answer that gives
it nothing to spoil (no error turn to unflag in a short continuation) leaves its `rng.choice` without a choice.
"""

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from agentrefine.worlds.engine import MISTAKE_KINDS

Record = dict[str, Any]
ScriptFault = Callable[[Record, Random], str | None]
TrajectoryFault = Callable[[list[Record], Record, Random], str | None]

UNKNOWN_ACTIONS = ("wait for help", "please help me", "think about the goal", "shout loudly", "do something else")
UNKNOWN_VALUES = ("unicorn", "stardust", "hoverboard", "wormhole")


def script_text(script: Record) -> str:
    """A script as a good answer."""
    return json.dumps(script, ensure_ascii=False)


def turns_text(turns: list[Record]) -> str:
    """Turns as a good answer."""
    return "[" + ",\n".join(json.dumps(turn, ensure_ascii=False) for turn in turns) + "]"


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
    text = script_text(script)
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


def unflagged_parameter_error(turns: list[Record], environment: Record, rng: Random) -> None:
    """The player says what is no action and the DM does not mind."""
    pairs = _answered(turns)
    flagged = [(player, dm) for player, dm in pairs if dm["parameter_error"]]
    player, dm = rng.choice(flagged or pairs)
    if not flagged:
        player["action"] = rng.choice(UNKNOWN_ACTIONS)
        dm.update(dict.fromkeys(MISTAKE_KINDS, False))
    dm["parameter_error"] = False


def false_alarm(turns: list[Record], environment: Record, rng: Random) -> None:
    """The DM calls a well-formed action with valid values unknown."""
    rng.choice([dm for _, dm in _answered(turns) if not _is_error(dm)])["parameter_error"] = True


def turn_without_key(turns: list[Record], environment: Record, rng: Random) -> None:
    """A turn lacks one of its keys."""
    turn = rng.choice(turns)
    del turn[rng.choice(sorted(turn.keys() - {"turn", "role"}))]


def game_in_prose(turns: list[Record], environment: Record, rng: Random) -> str:
    """The game as a stage play: not JSON."""
    return "\n".join(f"{turn['role']}: {turn.get('observation') or turn.get('action')}" for turn in turns)


def game_cut_off(turns: list[Record], environment: Record, rng: Random) -> str:
    """The answer stops in the middle."""
    text = turns_text(turns)
    return text[: int(len(text) * rng.uniform(0.3, 0.9))]


def unfinished(turns: list[Record], environment: Record, rng: Random) -> None:
    """The game ends before the goal is reached."""
    end = rng.choice([index for index, turn in enumerate(turns[:-1]) if turn["role"] == "DM" and index > 0])
    del turns[end + 1 :]


def refinement_repeats_failure(turns: list[Record], environment: Record, rng: Random) -> None:
    """After a logic or place error the player does the same again, and now it works."""
    corrected = [
        (failed, other)
        for (failed, refusal), (other, answer) in pairwise(_answered(turns))
        if (refusal["logic_error"] or refusal["place_error"]) and not _is_error(answer)
    ]
    failed, other = rng.choice(corrected)
    other["action"] = failed["action"]


def leaked_environment(turns: list[Record], environment: Record, rng: Random) -> None:
    """An observation quotes the hidden environment."""
    turn = rng.choice([turn for turn in turns if turn["role"] == "DM"])
    turn["observation"] += " " + json.dumps(environment, ensure_ascii=False)


def completed_too_early(turns: list[Record], environment: Record, rng: Random) -> None:
    """The DM declares the game won and plays on."""
    rng.choice([turn for turn in turns[:-1] if turn["role"] == "DM"])["task_completed"] = True


def turn_left_out(turns: list[Record], environment: Record, rng: Random) -> None:
    """The DM speaks twice, because a player turn is missing."""
    del turns[rng.choice([index for index, turn in enumerate(turns) if turn["role"] == "Player"])]


SCRIPT_FAULTS: tuple[ScriptFault, ...] = (
    regex_rejects_own_action,
    lookahead_in_regex,
    script_without_key,
    script_cut_off,
    value_not_in_environment,
    ambiguous_templates,
    placeholder_without_values,
    script_in_prose,
)
TRAJECTORY_FAULTS: tuple[TrajectoryFault, ...] = (
    unflagged_parameter_error,
    false_alarm,
    turn_without_key,
    game_in_prose,
    game_cut_off,
    unfinished,
    refinement_repeats_failure,
    leaked_environment,
    completed_too_early,
    turn_left_out,
)


def spoilt_script(fault: ScriptFault, script: Record, rng: Random) -> str | None:
    """A script with a fault; None where it has nothing to spoil. The script itself stays as it is."""
    spoilt = copy.deepcopy(script)
    try:
        return fault(spoilt, rng) or script_text(spoilt)
    except IndexError:
        return None


def spoilt_turns(fault: TrajectoryFault, turns: list[Record], environment: Record, rng: Random) -> str | None:
    """Turns with a fault; None where they have nothing to spoil. The turns themselves stay as they are."""
    spoilt = copy.deepcopy(turns)
    try:
        return fault(spoilt, environment, rng) or turns_text(spoilt)
    except IndexError:
        return None


def spoil_script(script: Record, rng: Random) -> str:
    """A script with one fault drawn from all."""
    texts = (spoilt_script(fault, script, rng) for fault in rng.sample(SCRIPT_FAULTS, len(SCRIPT_FAULTS)))
    return next(filter(None, texts), script_text(script))


def spoil_turns(turns: list[Record], environment: Record, rng: Random) -> str:
    """Turns with one fault drawn from all."""
    faults = rng.sample(TRAJECTORY_FAULTS, len(TRAJECTORY_FAULTS))
    return next(filter(None, (spoilt_turns(fault, turns, environment, rng) for fault in faults)), turns_text(turns))


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
