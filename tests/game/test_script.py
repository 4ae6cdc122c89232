"""Reading scripts from a teacher's text, and comparing actions with them."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrefine.game.actions import PLACEHOLDER
from agentrefine.game.script import Script
from agentrefine.game.verdict import RuleBrokenError
from agentrefine.verification.reading import MAX_ANSWER, AnswerRule, parse_script
from agentrefine.verification.script_rules import ScriptRule, verify_script
from tests.helpers.games import script, script_text, script_value


@pytest.mark.parametrize(
    "dress",
    [
        lambda text: text,
        lambda text: f"```json\n{text}\n```",
        lambda text: f"Here is the script you asked for:\n\n```\n{text}\n```\nHave fun!",
        lambda text: f"Sure! {text} Tell me if you need more.",
        lambda text: text.replace("]}", "],}").replace('"}', '",}'),
        lambda text: f'{{"script": {text}}}',
        lambda text: repr(json.loads(text)),
        lambda text: "\ufeff" + text,
    ],
    ids=["plain", "fence", "prose and fence", "prose", "trailing commas", "wrapped", "python", "byte order mark"],
)
def test_a_script_is_read_however_it_is_dressed(dress):
    assert parse_script(dress(script_text())) == script()


def test_apostrophes_and_unescaped_quotes_inside_texts_survive():
    text = """{'environment': {'nurses' station': 'it\\'s "open"'}, 'goal': "say "hello" to all", """
    text += """'completion_conditions': ['don't'], 'available_actions': {}, }"""
    with pytest.raises(RuleBrokenError) as caught:
        parse_script(text)
    assert caught.value.problem.rule is AnswerRule.SCRIPT_KEYS  # only because there are no actions
    text = text.replace(
        "'available_actions': {}",
        "'available_actions': {'look': {'description': 'x', 'verification_code': 'look', 'parameters': {}}}",
    )
    found = parse_script(text)
    assert found.environment == {"nurses' station": 'it\'s "open"'}
    assert found.goal == 'say "hello" to all'
    assert found.completion_conditions == ["don't"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", AnswerRule.EMPTY_ANSWER),
        (" \n\t", AnswerRule.EMPTY_ANSWER),
        ("I cannot do that.", AnswerRule.REFUSAL),
        ("It cannot be done.", AnswerRule.NOT_JSON),
        ("[1, 2]", AnswerRule.NOT_JSON),
        ("null", AnswerRule.NOT_JSON),
        ('{"environment": }', AnswerRule.NOT_JSON),
        (script_text()[:-40], AnswerRule.CUT_OFF),
        ('{"a":' * 200 + "1" + "}" * 200, AnswerRule.TOO_DEEP),
        ('{"a":' * 50_000, AnswerRule.TOO_LONG),
        ('{"a":' * 30_000, AnswerRule.TOO_DEEP),
        ("[" * 100_000, AnswerRule.NOT_JSON),
        ('{"goal": "a", "goal": "b"}', AnswerRule.DUPLICATE_KEY),
        ("{'goal': 'a', 'goal': 'b',}", AnswerRule.DUPLICATE_KEY),
        ('{"environment": {"x": NaN}}', AnswerRule.NOT_FINITE),
        ('{"environment": {"x": -Infinity}}', AnswerRule.NOT_FINITE),
        ('{"environment": {"x": 1e999}}', AnswerRule.NOT_FINITE),
        ('{"environment": {"x": "\\ud800"}}', AnswerRule.INVALID_TEXT),
        ('{"environment": {"x": ' + "9" * 5000 + "}}", AnswerRule.NOT_JSON),
        (json.dumps(script_value() | {"goal": 3}), AnswerRule.SCRIPT_KEYS),
        (json.dumps(script_value() | {"environment": []}), AnswerRule.SCRIPT_KEYS),
        (json.dumps({"script": script_text()}), AnswerRule.SCRIPT_KEYS),
    ],
)  # fmt: skip
def test_what_is_no_script_has_a_name(text, rule):
    finding = verify_script(text)
    assert finding.script is None
    assert finding.problem is not None
    assert finding.problem.rule is rule
    assert finding.problem.message.endswith(".")
    assert len(finding.problem.message) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        '{"goal": "' + "x" * 10_000_000,
        '"' * (MAX_ANSWER - 1),
        "{'" * (MAX_ANSWER // 2),
        '{"' + " " * (MAX_ANSWER - 2),
        '{"a": "' + '" ' * (MAX_ANSWER // 2 - 10),
        '{"a": [' + "1," * (MAX_ANSWER // 2 - 10),
        '{"a": [' + ", " * (MAX_ANSWER // 2 - 10),
        "{'a': [" + "'b', " * (MAX_ANSWER // 5 - 10) + "]}",
        '{"a": "' + "\\" * (MAX_ANSWER - 10),
    ],
)
def test_hostile_texts_end_soon(text):
    started = time.perf_counter()
    assert verify_script(text).problem is not None
    assert time.perf_counter() - started < 2


def large_script(actions: int, values: list[str], template: str, code: str) -> str:
    """A script of many actions of one kind; `#` in template and code is the action's number."""
    spec = {"description": "d", "parameters": dict.fromkeys(PLACEHOLDER.findall(template), values)}
    available = {
        template.replace("#", str(number)): spec | {"verification_code": code.replace("#", str(number))}
        for number in range(actions)
    }
    return json.dumps(script_value() | {"available_actions": available, "environment": {"all": values}})


def test_a_script_as_large_as_allowed_is_checked_soon():
    values = [f"{number:03d} a" for number in range(100)]
    text = large_script(30, values, "do# {x}", "^(do# .* ?)+$")
    started = time.perf_counter()
    assert verify_script(text).problem is None
    assert time.perf_counter() - started < 5


RUNS = ["x" * length for length in range(1, 100)]
NUMBERS = [str(number) for number in range(500)]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (large_script(70, list("12345"), "{a} {b} {c} {d} {e} # {f}", ".*"), None),
        (large_script(5, NUMBERS, "{a} {b} {c} {d} {e} {f} #", ".*"), ScriptRule.TOO_LARGE),
        (large_script(1, NUMBERS, "{a} {b} {c} {d} {e} {f} #", "(.*a?|b*){500}"), ScriptRule.TOO_LARGE),
        (large_script(40, RUNS[:30], "{a}x{b}x{c} #", ".*"), ScriptRule.TOO_LARGE),
        (large_script(1, RUNS, "go {a}x{b}x{c}x{d}x{e}", ".*"), ScriptRule.TOO_LARGE),
        (large_script(100, ["a"], "go# {a}", "(a{1000}){1000}"), ScriptRule.INVALID_REGEX),
        (large_script(100, ["a"], "go# {a}", r"(\pL{1,30}){1,30}"), ScriptRule.INVALID_REGEX),
        (large_script(100, ["1" * 100], "go# {a}", r"(go# |(1?){900}|(x+x+)+y)*"), None),
        (large_script(100, ["1" * 200], "go# {a}", r"(go# |(.*1|2*){900}|3)*"), ScriptRule.TOO_LARGE),
        (large_script(9, ["1" * 190], "go# {a} {b} {c} {d} {e}", r"((.*1|2*){900}|3)*"), ScriptRule.TOO_LARGE),
        (large_script(9, ["1" * 190], "go# {a} {b} {c} {d} {e} {f}", ".*"), ScriptRule.TOO_LARGE),
    ],
)
def test_the_largest_scripts_are_judged_soon(text, rule):
    assert len(text) < MAX_ANSWER
    started = time.perf_counter()
    problem = verify_script(text).problem
    assert (problem.rule if problem else None) is rule
    assert time.perf_counter() - started < 5


def test_an_action_matches_only_with_valid_values_and_its_own_code():
    value = script_value()
    value["available_actions"]["give {item} to {item2}"] = {
        "description": "d",
        "verification_code": "^give (lamp|rope) to .*$",
        "parameters": {"item": ["lamp", "rope", "old map", "lamp to lamp"], "item2": ["lamp", "lamp to rope"]},
    }
    actions = Script.model_validate(value).actions
    assert actions.matching("take old map") == "take {item}"
    assert actions.matching("take lamp ") == "take {item}", "its code takes any letters and spaces"
    assert actions.matching("look") == "look"
    assert actions.matching("give lamp to lamp to rope") == "give {item} to {item2}"
    for wrong in (
        "take sword",
        "Take lamp",
        " look",
        "look look",
        "",
        "give old map to lamp",
        "take {item}",
    ):
        assert actions.matching(wrong) is None, wrong
    assert actions.matching("take " + "lamp" * 100_000) is None


def test_many_readings_of_one_action_are_compared_in_little_time():
    value = script_value()
    value["available_actions"] = {
        "{a}{b}{c}{d}{e}": {
            "description": "d",
            "verification_code": "^x*$",
            "parameters": {name: ["x" * length for length in range(1, 60)] for name in "abcde"},
        }
    }
    actions = Script.model_validate(value).actions
    started = time.perf_counter()
    assert actions.matching("x" * 290 + "y") is None
    assert actions.matching("x" * 295) is None  # more readings than are followed
    assert time.perf_counter() - started < 1


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="{}[]\"',:\\ \ntrue0aN", max_size=200))
def test_no_text_crashes_the_parser(text):
    finding = verify_script(text)
    assert finding.problem is not None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=5), _JSON, min_size=1, max_size=3))
def test_a_read_environment_can_be_written_and_read_again(environment):
    found = verify_script(json.dumps(script_value() | {"environment": environment}))
    assert found.problem is not None  # it names none of the values
    if found.problem.rule is ScriptRule.UNKNOWN_VALUE:
        read = parse_script(json.dumps(script_value() | {"environment": environment}))
        assert Script.model_validate_json(read.model_dump_json()).environment == read.environment
