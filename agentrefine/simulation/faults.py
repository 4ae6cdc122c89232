"""Bad answers: each fault is a small pure function from a good answer to a text of the kind that language models write.

A fault returns None where the answer gives it nothing to spoil (no error turn to unflag in a short continuation).
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
NAMELESS_VALUES = ("unicorn", "stardust", "hoverboard", "wormhole")


def script_text(script: Record) -> str:
    """A script as a good answer."""
    return json.dumps(script, ensure_ascii=False)


def turns_text(turns: list[Record]) -> str:
    """Turns as a good answer."""
    return "[" + ",\n".join(json.dumps(turn, ensure_ascii=False) for turn in turns) + "]"


def regex_rejects_own_action(script: Record, rng: Random) -> str | None:
    """A verification code that demands a word which the template does not have."""
    spoilt = copy.deepcopy(script)
    spec = _drawn_action(spoilt, rng)
    spec["verification_code"] = r"(?:please|kindly) \w+" + rng.choice([r"( \w+)*", r" the \w+", ""])
    return script_text(spoilt)


def lookahead_in_regex(script: Record, rng: Random) -> str | None:
    """A verification code that no linear-time engine can run."""
    spoilt = copy.deepcopy(script)
    spec = _drawn_action(spoilt, rng)
    spec["verification_code"] = "(?=.+)" + spec["verification_code"]
    return script_text(spoilt)


def script_without_key(script: Record, rng: Random) -> str | None:
    """A key is missing, at the top or in an action."""
    spoilt = copy.deepcopy(script)
    if rng.random() < 0.5:
        del spoilt[rng.choice(["environment", "goal", "completion_conditions", "available_actions"])]
    else:
        spec = _drawn_action(spoilt, rng)
        del spec[rng.choice(["description", "verification_code", "parameters"])]
    return script_text(spoilt)


def script_cut_off(script: Record, rng: Random) -> str | None:
    """The answer stops in the middle of the environment."""
    text = script_text(script)
    return text[: int(len(text) * rng.uniform(0.1, 0.5))]


def value_not_in_environment(script: Record, rng: Random) -> str | None:
    """A placeholder may take a value that names nothing."""
    spoilt = copy.deepcopy(script)
    parameters = _drawn_parameters(spoilt, rng)
    if parameters is None:
        return None
    parameters[rng.choice(sorted(parameters))].append(rng.choice(NAMELESS_VALUES))
    return script_text(spoilt)


def ambiguous_templates(script: Record, rng: Random) -> str | None:
    """Two templates that differ in the name of a placeholder only."""
    spoilt = copy.deepcopy(script)
    actions = spoilt["available_actions"]
    templates = sorted(template for template, spec in actions.items() if spec["parameters"])
    if not templates:
        return None
    template = rng.choice(templates)
    spec = copy.deepcopy(actions[template])
    name = rng.choice(sorted(spec["parameters"]))
    spec["parameters"][f"another_{name}"] = spec["parameters"].pop(name)
    actions[template.replace("{" + name + "}", "{another_" + name + "}")] = spec
    return script_text(spoilt)


def placeholder_without_values(script: Record, rng: Random) -> str | None:
    """A placeholder that `parameters` does not know."""
    spoilt = copy.deepcopy(script)
    parameters = _drawn_parameters(spoilt, rng)
    if parameters is None:
        return None
    del parameters[rng.choice(sorted(parameters))]
    return script_text(spoilt)


def script_in_prose(script: Record, rng: Random) -> str | None:
    """A summary instead of a script."""
    return f"{rng.choice(['Sure!', 'Of course.', 'Here is my idea.'])} The goal of the game would be: {script['goal']}"


def unflagged_parameter_error(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """The player says what is no action and the DM does not mind."""
    spoilt = copy.deepcopy(turns)
    pairs = _answered(spoilt)
    if not pairs:
        return None
    flagged = [(player, dm) for player, dm in pairs if dm["parameter_error"]]
    if flagged:
        rng.choice(flagged)[1]["parameter_error"] = False
    else:
        player, dm = rng.choice(pairs)
        player["action"] = rng.choice(UNKNOWN_ACTIONS)
        dm.update(dict.fromkeys(MISTAKE_KINDS, False))
    return turns_text(spoilt)


def false_alarm(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """The DM calls a well-formed action with valid values unknown."""
    spoilt = copy.deepcopy(turns)
    answers = [dm for _, dm in _answered(spoilt) if not any(dm[flag] for flag in MISTAKE_KINDS)]
    if not answers:
        return None
    rng.choice(answers)["parameter_error"] = True
    return turns_text(spoilt)


def turn_without_key(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """A turn lacks one of its keys."""
    spoilt = copy.deepcopy(turns)
    turn = rng.choice(spoilt)
    del turn[rng.choice(sorted(turn.keys() - {"turn", "role"}))]
    return turns_text(spoilt)


def game_in_prose(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """The game as a stage play: not JSON."""
    said = (f"{turn['role']}: {turn.get('observation') or turn.get('action')}" for turn in turns)
    return "\n".join(said)


def game_cut_off(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """The answer stops in the middle."""
    text = turns_text(turns)
    return text[: int(len(text) * rng.uniform(0.3, 0.9))]


def unfinished(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """The game ends before the goal is reached."""
    ends = [index for index, turn in enumerate(turns[:-1]) if turn["role"] == "DM" and index > 0]
    return turns_text(turns[: rng.choice(ends) + 1]) if ends else None


def refinement_repeats_failure(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """After a logic or place error the player does the same again, and now it works."""
    spoilt = copy.deepcopy(turns)
    pairs = _answered(spoilt)
    places = [
        index
        for index in range(len(pairs) - 1)
        if (pairs[index][1]["logic_error"] or pairs[index][1]["place_error"])
        and not any(pairs[index + 1][1][flag] for flag in MISTAKE_KINDS)
    ]
    if not places:
        return None
    index = rng.choice(places)
    pairs[index + 1][0]["action"] = pairs[index][0]["action"]
    return turns_text(spoilt)


def leaked_environment(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """An observation quotes the hidden environment."""
    spoilt = copy.deepcopy(turns)
    turn = rng.choice([turn for turn in spoilt if turn["role"] == "DM"])
    turn["observation"] += " " + json.dumps(environment, ensure_ascii=False)
    return turns_text(spoilt)


def completed_too_early(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """The DM declares the game won and plays on."""
    spoilt = copy.deepcopy(turns)
    answers = [turn for turn in spoilt[:-1] if turn["role"] == "DM"]
    if not answers:
        return None
    rng.choice(answers)["task_completed"] = True
    return turns_text(spoilt)


def turn_left_out(turns: list[Record], environment: Record, rng: Random) -> str | None:
    """The DM speaks twice, because a player turn is missing."""
    players = [index for index, turn in enumerate(turns) if turn["role"] == "Player"]
    if not players:
        return None
    left_out = rng.choice(players)
    return turns_text(turns[:left_out] + turns[left_out + 1 :])


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


def spoil_script(script: Record, rng: Random) -> str:
    """A script with one fault drawn from all."""
    texts = (fault(script, rng) for fault in rng.sample(SCRIPT_FAULTS, len(SCRIPT_FAULTS)))
    return next((text for text in texts if text is not None), script_text(script))


def spoil_turns(turns: list[Record], environment: Record, rng: Random) -> str:
    """Turns with one fault drawn from all."""
    texts = (fault(turns, environment, rng) for fault in rng.sample(TRAJECTORY_FAULTS, len(TRAJECTORY_FAULTS)))
    return next((text for text in texts if text is not None), turns_text(turns))


def _drawn_action(script: Record, rng: Random) -> Record:
    actions: dict[str, Record] = script["available_actions"]
    return actions[rng.choice(sorted(actions))]


def _drawn_parameters(script: Record, rng: Random) -> dict[str, list[str]] | None:
    """The parameters of an action that has some; None where none has."""
    specs = [spec["parameters"] for spec in script["available_actions"].values() if spec["parameters"]]
    return rng.choice(specs) if specs else None


def _answered(turns: list[Record]) -> list[tuple[Record, Record]]:
    """Player turns with the DM turns that answer them."""
    return [(player, dm) for player, dm in pairwise(turns) if (player["role"], dm["role"]) == ("Player", "DM")]
