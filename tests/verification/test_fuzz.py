"""Whatever a teacher answers, the verifier ends with a rule, or with a pass that an independent check confirms."""

import itertools
import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from agentrefine.game.verdict import Problem, Rule
from agentrefine.params import VerificationParams
from agentrefine.verification.reading import parse_turns
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.trajectory_rules import check_turn_texts, has_suspicious_texts, verify_trajectory
from tests.helpers.games import GOOD_STEPS, game, game_text, script, script_text
from tests.verification.test_verification import assert_readable

PARAMS = VerificationParams(min_error_refine_turns=2, max_turns=20)
FUZZ = settings(max_examples=400, deadline=None, derandomize=True, database=None)
SCRIPT = script()

VALID_ACTIONS = {
    "look",
    *(f"go to {place}" for place in ("hall", "cellar")),
    *(f"take {item}" for item in ("lamp", "old map", "rope")),
}
"""Written by hand, so that no code of the verifier decides what is valid."""

UNSEEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\x00-\x08\x0b-\x1f\x7f]")
# fmt: off
TRICKS = st.sampled_from([
    "\u200b", "\u202e", "\u0430", "\u00a0", "\ufeff", "\0", "\\u0000", "\\ud800", "\U0001f600", "\u0301", "灯",
    "NaN", "1e999", "null", "true", "-", "<|im_end|>", "\\nAction: look", "\nAction: look", "```",
    '"', "'", "\\", "{", "}", "[", "]", ",", ":", "\n",
])
# fmt: on

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def check(text: str) -> None:
    """Both verifiers on one text."""
    check_script(text)
    check_game(text)


def check_script(text: str) -> None:
    found, problem = verify_script(text)
    assert (found is None) == (problem is not None)
    if found is None:
        check_problem(problem)
        return
    shown = [found.goal, *found.available_actions]
    for template, spec in found.available_actions.items():
        assert set(re.findall(r"\{([^{}]+)\}", template)) == set(spec.parameters)
        shown += [spec.description, *itertools.chain(*spec.parameters.values())]
    assert not UNSEEN.search("".join(shown))
    assert verify_script(found.model_dump_json()) == (found, None)


def check_game(text: str) -> None:
    kept, problem = verify_trajectory(SCRIPT, text, PARAMS)
    turns = parse_turns(text).turns
    assert kept == turns[: len(kept)]
    if not has_suspicious_texts(SCRIPT, turns):
        for turn in turns:
            check_turn_texts(SCRIPT, turn, turn.turn)
    if problem is not None:
        check_problem(problem)
        assert len(kept) % 2 == 1 or not kept
        return
    assert [turn.turn for turn in kept] == list(range(1, len(kept) + 1))
    assert len(kept) <= PARAMS.max_turns
    assert [turn.role for turn in kept] == ["DM", "Player"] * (len(kept) // 2) + ["DM"]
    assert [turn.task_completed for turn in kept[::2]] == [False] * (len(kept) // 2) + [True]
    for player, answer in zip(kept[1::2], kept[2::2], strict=True):
        assert (player.action in VALID_ACTIONS) == (not answer.parameter_error)
        assert "\n" not in player.action
    shown = "".join(turn.observation if turn.role == "DM" else turn.thought + turn.action for turn in kept)
    assert not UNSEEN.search(shown)
    assert "<|" not in shown
    assert not re.search(r"^\s*Action:", shown, re.MULTILINE)


def check_problem(problem: Problem) -> None:
    assert isinstance(problem.rule, Rule)
    assert_readable(problem)
    assert problem.turn is None or problem.turn >= 1


@FUZZ
@given(st.text(max_size=300) | st.text(alphabet="{}[]\"',:\\ \ntrue0aN", max_size=300))
def test_any_text(text):
    check(text)


@FUZZ
@given(VALUES)
def test_any_json(value):
    check(json.dumps(value))
    check(repr(value))


@st.composite
def damaged_texts(draw: st.DrawFn, text: str) -> str:
    """A good text with a few pieces cut out, doubled, moved or put in."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 60)))
        how = draw(st.sampled_from(["delete", "double", "insert", "truncate", "swap"]))
        piece = text[start:end]
        if how == "truncate":
            text = text[:start]
        elif how == "swap":
            text = text[:start] + text[end : end + len(piece)] + piece + text[end + len(piece) :]
        else:
            put = {"delete": "", "double": piece * 2, "insert": draw(TRICKS) + piece}[how]
            text = text[:start] + put + text[end:]
    return text


@FUZZ
@given(damaged_texts(script_text()))
def test_damaged_scripts(text):
    check_script(text)


@FUZZ
@given(damaged_texts(game_text()))
def test_damaged_games(text):
    check_game(text)


def inner_paths(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The paths of everything within a value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, child in children for found in [(*path, key), *inner_paths(child, (*path, key))]]


@st.composite
def changed_values(draw: st.DrawFn, original: str) -> str:
    """A good value with a few parts of other types, removed, renamed, or with characters put into them."""
    value = json.loads(original)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(inner_paths(value)))
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        old = parent[path[-1]]
        how = draw(st.sampled_from(["type", "remove", "trick", "text"]))
        if how == "remove":
            del parent[path[-1]]
        elif how == "type":
            parent[path[-1]] = draw(VALUES)
        elif isinstance(old, str):
            position = draw(st.integers(0, len(old)))
            parent[path[-1]] = old[:position] + draw(TRICKS if how == "trick" else st.text(max_size=4)) + old[position:]
        if not inner_paths(value):
            break
    return json.dumps(value)


@FUZZ
@given(changed_values(script_text()))
def test_changed_scripts(text):
    check_script(text)


@FUZZ
@given(changed_values(game_text()))
def test_changed_games(text):
    check_game(text)


STEPS = st.tuples(
    st.sampled_from(
        ["look", "take lamp", "take rope", "go to cellar", "fly", "Take lamp", "take l\u0430mp", "take {item}"]
    ),
    st.sampled_from(["", "parameter", "logic", "place"]),
)


@FUZZ
@given(st.lists(STEPS, max_size=8), st.integers(0, 5), st.booleans())
def test_games_of_any_steps(steps, good, completed):
    check_game(game_text([*steps, *GOOD_STEPS[:good]], completed))


@FUZZ
@given(st.integers(1, 1200), st.sampled_from(["[", '{"a":', "[{", '[{"turn": 1, "x": ']), st.booleans())
def test_nesting_of_any_depth(depth, opening, closed):
    closing = "".join({"[": "]", "{": "}"}[sign] for sign in reversed(opening) if sign in "[{")
    check(opening * depth + "1" + closing * depth * closed)
    turns = json.dumps([*game()[:3], "DEEP"]).replace('"DEEP"', opening * depth + "1" + closing * depth)
    check_game(turns)
