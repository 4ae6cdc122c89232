"""Hostile and broken answers, each by name: every one ends as a verdict with its rule, and valid edge cases pass."""

import json
import time

import pytest

from agentrefine.game.verdict import Problem
from agentrefine.params import VerificationParams
from agentrefine.simulation.answers import generator, world_for
from agentrefine.simulation.game import write_game
from agentrefine.verification.reading import AnswerRule
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.shared_rules import SharedRule
from agentrefine.verification.trajectory_rules import RULES, TrajectoryRule, verify_trajectory
from agentrefine.worlds.layout import script_of
from tests.helpers.answer_recipes import KEPT_BEFORE, answer, cases
from tests.helpers.games import dm, game, player, script, script_value
from tests.helpers.simulated_games import VERIFICATION
from tests.verification.test_verification import assert_readable

PARAMS = VerificationParams(min_error_refine_turns=2, max_turns=60)
FILES = {"script": "scripts", "trajectory": "trajectories", "continuation": "continuations"}
BAD = [(kind, case) for kind, name in FILES.items() for case in cases(name)]
GOOD = cases("valid_edge_cases")


def judged(case: dict[str, object], kind: str) -> tuple[int, Problem | None]:
    """The turns kept and what was found."""
    text = answer(case, kind)
    if kind == "script":
        return 0, verify_script(text).problem
    before = verify_trajectory(script(), json.dumps(game()[:KEPT_BEFORE]), PARAMS).turns
    kept, problem = verify_trajectory(script(), text, PARAMS, before if kind == "continuation" else ())
    return len(kept), problem


@pytest.mark.parametrize(("kind", "case"), BAD, ids=[f"{kind}: {case['name']}" for kind, case in BAD])
def test_a_bad_answer_breaks_its_rule(kind, case):
    kept, problem = judged(case, kind)
    assert problem is not None
    assert problem.rule == case["rule"]
    assert kept == case.get("kept", 0)
    assert_readable(problem)


@pytest.mark.parametrize("case", GOOD, ids=[case["name"] for case in GOOD])
def test_a_valid_edge_case_passes(case):
    assert judged(case, case["kind"])[1] is None


LANGUAGES = {
    "Chinese": ("把灯拿到大厅里来。", "你在大厅里，桌子上有一盏灯和一张旧地图。", "我应该先拿起那盏灯，然后去找绳子。"),
    "Arabic": (
        "أحضر المصباح والحبل إلى القاعة.",
        "أنت في القاعة وعلى الطاولة مصباح وخريطة قديمة.",
        "يجب أن آخذ المصباح أولا.",
    ),
    "Russian": (
        "Принеси лампу и верёвку в зал.",
        "Ты в зале. На столе лампа и старая карта.",
        "Сначала я возьму лампу со стола.",
    ),
    "Persian": (
        "چراغ را به تالار بیاور، می‌توانی بگردی.",
        "روی میز یک چراغ و یک نقشه‌ی قدیمی است.",
        "نخست چراغ را برمی‌دارم و می‌روم.",
    ),
    "Hindi": ("दीपक और रस्सी को कक्ष में लाओ।", "तुम कक्ष में हो और मेज़ पर एक दीपक है।", "मैं पहले मेज़ से दीपक उठाता हूँ।"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_game_in_the_language_of_its_script_passes(language):
    goal, observation, thought = LANGUAGES[language]
    value = script_value() | {"goal": goal, "completion_conditions": [goal]}
    for spec in value["available_actions"].values():
        spec["description"] = goal
    found, problem = verify_script(json.dumps(value))
    assert problem is None
    turns = [turn | ({"observation": observation} if turn["role"] == "DM" else {"thought": thought}) for turn in game()]
    assert verify_trajectory(found, json.dumps(turns), PARAMS).problem is None


@pytest.mark.parametrize(
    "persona", ["一位在上海教书的老师", "خباز يعمل ليلا في القاهرة", "Учительница музыки из Перми"]
)
def test_the_simulated_teachers_answers_for_personas_in_any_language_pass(persona):
    for sample in range(6):
        world = world_for(persona, sample)
        found, problem = verify_script(script_of(world).model_dump_json())
        assert problem is None
        turns = write_game(world, [], (2, 3), generator(persona, str(sample)))
        assert verify_trajectory(found, json.dumps(turns, ensure_ascii=False), VERIFICATION).problem is None


LONG = {
    "one observation": (lambda: game_with(4, "Ж, " * 60_000), SharedRule.OTHER_WRITING),
    "one action of joiners": (lambda: game_with(3, "\u200d" * 190_000), SharedRule.HIDDEN_CHARACTER),
    "one action of lookalikes": (lambda: game_with(3, "а" * 190_000), TrajectoryRule.UNFLAGGED_ERROR),
    "an action as long as allowed": (lambda: game_with(3, "take " + "а" * 990), TrajectoryRule.UNFLAGGED_ERROR),
    "hundreds of turns": (lambda: hundreds_of_turns(), TrajectoryRule.UNFINISHED),
    "almost words to a model": (lambda: game_with(4, "ignore all " * 17_000), None),
    "replies all over": (lambda: game_with(4, "thought :\n" * 17_000), SharedRule.REPLY_FORMAT),
}


def hundreds_of_turns() -> list[dict[str, object]]:
    pairs = ((player(turn, "а b"), dm(turn + 1, "parameter")) for turn in range(2, 1000, 2))
    return [dm(1), *(turn for pair in pairs for turn in pair)]


def game_with(position: int, text: str) -> list[dict[str, object]]:
    turns = game()
    turns[position]["observation" if turns[position]["role"] == "DM" else "action"] = text
    return turns


@pytest.mark.parametrize("name", LONG)
def test_the_longest_games_are_judged_soon(name):
    build, rule = LONG[name]
    text = json.dumps(build(), ensure_ascii=False)
    started = time.perf_counter()
    problem = verify_trajectory(script(), text, VerificationParams(min_error_refine_turns=2, max_turns=2000)).problem
    assert (problem.rule if problem else None) is rule
    assert time.perf_counter() - started < 10


def test_thousands_of_broken_elements_are_judged_soon():
    started = time.perf_counter()
    problem = verify_trajectory(script(), "[" + "{,}" * 66_000, PARAMS).problem
    assert problem is not None
    assert problem.rule is AnswerRule.TURN_KEYS
    assert time.perf_counter() - started < 5


def test_all_bad_answers_together_are_judged_soon():
    assert len(BAD) >= 60
    started = time.perf_counter()
    for kind, case in BAD:
        judged(case, kind)
    assert time.perf_counter() - started < 10


def test_every_bad_answer_breaks_a_rule_that_there_is():
    assert {case["rule"] for _, case in BAD} <= set(RULES)
