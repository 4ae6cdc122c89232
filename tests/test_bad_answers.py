"""Hostile and broken answers, each by name: every one ends as a verdict with its rule, and odd ones pass."""

import json
import time

import pytest
from answer_recipes import KEPT_BEFORE, answer, cases
from games import game, script

from agentrefine.params import VerificationParams
from agentrefine.rules import Problem, Rule
from agentrefine.script_checks import verify_script
from agentrefine.verification import verify_trajectory

PARAMS = VerificationParams(min_error_refine_turns=2, max_turns=60)
FILES = {"script": "scripts", "trajectory": "trajectories", "continuation": "continuations"}
BAD = [(kind, case) for kind, name in FILES.items() for case in cases(name)]
GOOD = cases("odd_but_good")


def judged(case: dict[str, object], kind: str) -> tuple[int, Problem | None]:
    """The turns kept and what was found."""
    text = answer(case, kind)
    if kind == "script":
        return 0, verify_script(text).problem
    before = verify_trajectory(script(), json.dumps(game()[:KEPT_BEFORE]), PARAMS).kept
    kept, problem = verify_trajectory(script(), text, PARAMS, before if kind == "continuation" else ())
    return len(kept), problem


@pytest.mark.parametrize(("kind", "case"), BAD, ids=[f"{kind}: {case['name']}" for kind, case in BAD])
def test_a_bad_answer_breaks_its_rule(kind, case):
    kept, problem = judged(case, kind)
    assert problem is not None
    assert problem.rule is Rule(case["rule"])
    assert kept == case.get("kept", 0)
    assert problem.message.endswith(".")
    assert len(problem.message) < 1000
    assert problem.message.isprintable()


@pytest.mark.parametrize("case", GOOD, ids=[case["name"] for case in GOOD])
def test_an_odd_answer_passes(case):
    assert judged(case, case["kind"])[1] is None


def test_all_bad_answers_together_are_judged_soon():
    assert len(BAD) >= 60
    started = time.perf_counter()
    for kind, case in BAD:
        judged(case, kind)
    assert time.perf_counter() - started < 10


def test_every_rule_has_a_bad_answer():
    assert {Rule(case["rule"]) for _, case in BAD} == set(Rule)
