"""The simulated teacher, in process: the games that it writes and the bad answers that it gives."""

import json
import re
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from agentrefine.game.conversation import reply_text
from agentrefine.game.personas import load_personas
from agentrefine.game.trajectory import error_refine_turns, steps
from agentrefine.llm.completion import SAMPLES_PER_CALL
from agentrefine.params.teacher import SimulatedTeacher
from agentrefine.simulation import faults
from agentrefine.simulation.answers import answer, theme_words, world_for
from agentrefine.simulation.tiny_base import tiny_tokenizer
from agentrefine.synthesis.prompts import script_messages, trajectory_messages
from agentrefine.synthesis.repair_prompts import continuation_messages, script_retry_messages
from agentrefine.verification.reading import parse_turns
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.trajectory_rules import verify_trajectory
from agentrefine.worlds.catalogue import themes
from agentrefine.worlds.language import first_person, names_in
from agentrefine.worlds.layout import EVALUATION_SEEDS, world_from_id
from agentrefine.worlds.thoughts import thoughts
from tests.helpers.simulated_games import (
    BAKER,
    FAULTLESS,
    PARAMS,
    ROOT,
    TRAIN_FAMILIES,
    VERIFICATION,
    games,
    script_for,
)

FLAGS = ("parameter_error", "logic_error", "place_error")


def test_games_hold_all_kinds_of_mistakes_and_runs_of_them():
    kinds = dict.fromkeys(FLAGS, 0)
    runs: dict[int, int] = {}
    for script, turns in games(130):
        kept, problem = verify_trajectory(script, faults.answer_text(turns), VERIFICATION)
        assert problem is None, script.environment["world"]
        assert 2 <= error_refine_turns(kept) <= 3
        run = 0
        for step in steps(kept):
            run = run + 1 if step.answer.error else 0
            runs[run] = runs.get(run, 0) + 1
            for kind in FLAGS:
                kinds[kind] += getattr(step.answer, kind)
    assert min(kinds.values()) > 0.2 * sum(kinds.values())
    assert 0 < runs[2] < 0.4 * runs[1]
    assert runs.keys() <= {0, 1, 2, 3}


def test_a_mistake_carries_a_wrong_belief_and_the_next_thought_cites_the_error_and_acts_otherwise():
    for _, turns in games(130):
        moves = [(player, dm) for player, dm in pairwise(turns) if player["role"] == "Player"]
        for (player, dm), (following, _) in pairwise(moves):
            if not any(dm[flag] for flag in FLAGS):
                continue
            belief = re.split(r"believes that |to think that ", dm["thought"])[1].partition(".")[0]
            belief = belief.removesuffix(", but that is wrong")
            assert belief.lower() in player["thought"].lower()
            assert cited(dm["observation"]) in following["thought"].lower()
            assert following["action"] != player["action"]


def cited(observation: str) -> str:
    """What the player says of a refusal."""
    return first_person(observation.partition(": ")[2].partition(".")[0]).lower()


def test_mistakes_concern_only_what_the_player_has_read():
    for script, turns in games(130):
        objects = world_from_id(script.environment["world"]).objects
        read = set(names_in(script.goal, objects))
        for turn in turns:
            if turn["role"] == "DM":
                read.update(names_in(turn["observation"], objects))
            elif not _next_turn(turns, turn)["parameter_error"]:
                assert set(names_in(turn["action"], objects)) <= read


def test_right_thoughts_name_only_what_the_player_has_read():
    for script, turns in games(260):
        objects = world_from_id(script.environment["world"]).objects
        read = set(names_in(script.goal, objects))
        for turn in turns:
            if turn["role"] == "DM":
                read.update(names_in(turn["observation"], objects))
            elif not any(_next_turn(turns, turn)[flag] for flag in FLAGS):
                assert set(names_in(turn["thought"], objects)) <= read, turn


def test_a_thought_of_each_kind_has_several_phrasings_and_names_what_is_done():
    kinds = {kind: phrasings for kind, phrasings in thoughts().items() if isinstance(phrasings, list)}
    assert len(kinds) == 8
    assert all(len(set(phrasings)) >= 2 for phrasings in kinds.values())
    assert all("{action}" in phrasing or kind == "after_error" for kind in kinds for phrasing in kinds[kind])
    said = [turn["thought"] for _, turns in games(40) for turn in turns if turn["role"] == "Player"]
    assert len({" ".join(thought.split()[:2]) for thought in said}) > 20


def test_most_mistaken_thoughts_read_like_right_ones():
    said = [
        player["thought"]
        for _, turns in games(130)
        for player, dm in pairwise(turns)
        if player["role"] == "Player" and any(dm[flag] for flag in FLAGS)
    ]
    openly = sum("I think " in thought or "I'm sure " in thought for thought in said)
    assert 0.2 * len(said) < openly < 0.5 * len(said)


def _next_turn(turns: list[dict[str, Any]], turn: dict[str, Any]) -> dict[str, Any]:
    return turns[turn["turn"]]


def test_mistakes_are_spread_over_the_games():
    places = [
        number / len(turns)
        for _, turns in games(130)
        for number, turn in enumerate(turns)
        if turn["role"] == "DM" and any(turn[flag] for flag in FLAGS)
    ]
    thirds = [sum(low <= place < low + 1 / 3 for place in places) for low in (0, 1 / 3, 2 / 3)]
    assert min(thirds) > 0.15 * len(places)


def test_the_tiny_tokenizer_spends_no_token_on_letters_of_a_game():
    tokenizer = tiny_tokenizer(7)
    said = {
        turn["observation"] if turn["role"] == "DM" else reply_text(turn["thought"], turn["action"])
        for _, turns in games(130)
        for turn in turns
    }
    letters = {text for text in said for token in tokenizer.tokenize(text) if re.fullmatch("Ġ?[a-z]", token)}
    assert letters == set()


def test_a_rejected_game_is_continued_from_its_sound_turns():
    for number, (script, turns) in enumerate(games(40)):
        kept = parse_turns(faults.answer_text(turns)).turns[: 2 * (number % 7) + 1]
        if kept[-1].turn == len(turns):
            continue
        prompt = continuation_messages(BAKER, script, kept, "Turn 9 is wrong.")[0]["content"]
        text = answer(prompt, str(number), 0, FAULTLESS)
        whole, problem = verify_trajectory(script, text, VERIFICATION, kept)
        assert problem is None
        assert whole[: len(kept)] == kept
        if kept[-1].error:
            assert cited(kept[-1].observation) in whole[len(kept)].thought.lower()


def test_feedback_brings_a_new_draw_of_the_same_world():
    params = FAULTLESS.model_copy(update={"script_faults": 0.5})
    worlds, passed = set(), set()
    for call in range(12):
        prompt = script_retry_messages(BAKER, f"Reason {call}.")[0]["content"]
        script, problem = verify_script(answer(prompt, str(call), 4 + call * SAMPLES_PER_CALL, params))
        passed.add(problem is None)
        worlds |= {script.environment["world"]} if script else set()
    assert len(worlds) == 1
    assert passed == {True, False}


def test_held_out_families_themes_and_layouts_never_appear():
    allowed = {theme.name for theme in themes("train")}
    assert set(theme_words().values()) == allowed
    seen = set()
    for persona in load_personas(ROOT / "data" / "personas.jsonl", limit=60):
        for sample in range(4):
            world = world_for(persona.text, sample)
            seen.add((world.family, world.theme))
            assert 0 <= world.seed < EVALUATION_SEEDS
    assert {family for family, _ in seen} == set(TRAIN_FAMILIES)
    assert {theme for _, theme in seen} == allowed


def test_a_persona_gets_a_theme_that_fits_it():
    assert world_for("A pastry chef from Lyon", 0).theme == "kitchen"
    assert world_for("A night nurse in Manila", 5).theme == "hospital"


SCRIPT_RULES = {
    faults.regex_rejects_own_action: {"action_mismatch"},
    faults.lookahead_in_regex: {"nonlinear_regex"},
    faults.script_without_key: {"script_keys"},
    faults.script_cut_off: {"cut_off"},
    faults.value_not_in_environment: {"unknown_value"},
    faults.ambiguous_templates: {"ambiguous_actions"},
    faults.placeholder_without_values: {"placeholders"},
    faults.script_in_prose: {"not_json"},
}
TRAJECTORY_RULES = {
    faults.unflagged_parameter_error: {"unflagged_error"},
    faults.false_alarm: {"false_alarm"},
    faults.turn_without_key: {"turn_keys"},
    faults.game_in_prose: {"not_json"},
    faults.game_cut_off: {"cut_off"},
    faults.unfinished: {"unfinished"},
    faults.correction_repeats_failure: {"repeated_mistake"},
    faults.leaked_environment: {"environment_leak"},
    faults.completed_too_early: {"early_completion", "completed_on_error", "completed_at_start"},
    faults.turn_left_out: {"role_order", "turn_number"},
}


def test_every_fault_has_its_rule():
    assert set(SCRIPT_RULES) == set(faults.SCRIPT_FAULTS)
    assert set(TRAJECTORY_RULES) == set(faults.TRAJECTORY_FAULTS)


@pytest.mark.parametrize("fault", faults.SCRIPT_FAULTS, ids=lambda fault: fault.__name__)
def test_a_spoilt_script_is_rejected_by_the_rule_meant_for_it(fault: faults.Fault):
    for number, family in enumerate(TRAIN_FAMILIES):
        good = script_for(family).model_dump()
        before = json.dumps(good)
        text = faults.spoilt(fault, good, Random(number))
        assert json.dumps(good) == before, "a fault must not change what it is given"
        assert text is not None
        problem = verify_script(text).problem
        assert problem is not None
        assert problem.rule.value in SCRIPT_RULES[fault], (family, problem)


@pytest.mark.parametrize("fault", faults.TRAJECTORY_FAULTS, ids=lambda fault: fault.__name__)
def test_a_spoilt_game_is_rejected_by_the_rule_meant_for_it(fault: faults.Fault):
    spoilt = 0
    for number, (script, turns) in enumerate(games(40)):
        before = json.dumps(turns)
        text = faults.spoilt(fault, turns, Random(number), script.environment)
        assert json.dumps(turns) == before, "a fault must not change what it is given"
        if text is None:
            continue
        spoilt += 1
        problem = verify_trajectory(script, text, VERIFICATION).problem
        assert problem is not None
        assert problem.rule.value in TRAJECTORY_RULES[fault], problem
    assert spoilt >= 20


def test_a_game_that_is_too_clean_is_rejected():
    for script, turns in games(20, mistakes=(0, 1)):
        problem = verify_trajectory(script, faults.answer_text(turns), VERIFICATION).problem
        assert problem is not None
        assert problem.rule.value == "too_few_refinements"


def test_at_the_default_rates_a_quarter_of_the_first_answers_is_rejected():
    asked = rejected = 0
    for persona in load_personas(ROOT / "data" / "personas.jsonl", limit=75):
        for sample in range(2):
            key = f"{persona.id} {sample}"
            prompt = script_messages(persona)[0]["content"]
            script, problem = verify_script(answer(prompt, key, sample, PARAMS.teacher.offline))
            asked, rejected = asked + 1, rejected + (problem is not None)
            if script is not None:
                prompt = trajectory_messages(persona, script)[0]["content"]
                text = answer(prompt, f"game {key}", sample, PARAMS.teacher.offline)
                problem = verify_trajectory(script, text, VERIFICATION).problem
                asked, rejected = asked + 1, rejected + (problem is not None)
    assert 0.25 <= rejected / asked <= 0.4


def test_a_game_that_is_over_is_continued_by_nothing():
    spoiling = FAULTLESS.model_copy(update={"trajectory_faults": 1.0})
    script, turns = next(games(1))
    kept = parse_turns(faults.answer_text(turns)).turns
    prompt = continuation_messages(BAKER, script, kept, "Nothing.")[0]["content"]
    assert {answer(prompt, str(n), 0, spoiling).removeprefix("```json\n").removesuffix("\n```") for n in range(30)} == {
        "[]"
    }


@pytest.mark.parametrize("mistakes", [[3, 2], [-1, 2], [2]])
def test_a_range_of_mistakes_that_is_none_is_refused(mistakes: list[int]):
    with pytest.raises(ValidationError, match="mistakes"):
        SimulatedTeacher.model_validate(FAULTLESS.model_dump() | {"mistakes": mistakes})
