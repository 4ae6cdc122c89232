"""Reading games from a teacher's text."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrefine.verification.reading import AnswerRule, parse_turns
from tests.helpers.games import dm, game, game_text, player


def as_values(text):
    found = parse_turns(text)
    return [turn.model_dump() for turn in found.turns], found.problem


@pytest.mark.parametrize(
    "dress",
    [
        lambda text: text,
        lambda text: f"```json\n{text}\n```",
        lambda text: f"The game [as asked]:\n```json\n{text}\n```\nThat's all.",
        lambda text: f'{{"trajectory": {text}}}',
        lambda text: f'Here: {{"notes": [1], "turns": {text}}} Done.',
        lambda text: text.replace("}, {", "},\n\n{").replace("}]", ",},]"),
        lambda text: repr(json.loads(text)),
    ],
    ids=["plain", "fence", "prose and fence", "wrapped", "prose and wrapped", "trailing commas", "python"],
)
def test_a_game_is_read_however_it_is_dressed(dress):
    assert as_values(dress(game_text())) == (game(), None)


def test_of_a_game_that_is_cut_off_only_the_complete_turns_are_read():
    turns, text = game(), game_text()
    starts = [text.index(json.dumps(turn)) for turn in turns]
    for cut in range(1, len(text)):
        read, problem = as_values(text[:cut])
        complete = sum(start + len(json.dumps(turn)) <= cut for start, turn in zip(starts, turns, strict=True))
        assert read == turns[:complete]
        assert problem is not None
        if cut > 20:
            assert problem.rule is AnswerRule.CUT_OFF
            assert problem.turn == complete + 1


def test_a_cut_inside_python_style_text_is_not_filled_up_either():
    text = repr(game())
    read, problem = as_values(text[: text.index("'turn': 4") + 40])
    assert read == game()[:3]
    assert problem.rule is AnswerRule.CUT_OFF


@pytest.mark.parametrize(
    ("text", "rule", "read"),
    [
        ("", AnswerRule.EMPTY_ANSWER, 0),
        ("[]", AnswerRule.EMPTY_ANSWER, 0),
        ('{"turns": []}', AnswerRule.NOT_JSON, 0),
        ("no game today", AnswerRule.NOT_JSON, 0),
        ('"text"', AnswerRule.NOT_JSON, 0),
        ('["\ud800"]', AnswerRule.INVALID_TEXT, 0),
        (json.dumps(dm(1)), AnswerRule.NOT_JSON, 0),
        ("x" * 10_000_000, AnswerRule.TOO_LONG, 0),
        ("[" * 100_000, AnswerRule.NOT_JSON, 0),
        (json.dumps([*game()[:3], "later"]), AnswerRule.TURN_KEYS, 3),
        (json.dumps([*game()[:3], None]), AnswerRule.TURN_KEYS, 3),
        (json.dumps([*game()[:3], [dm(1)]]), AnswerRule.TURN_KEYS, 3),
        (json.dumps([*game()[:3], player(4, "look") | {"extra": 1}]), AnswerRule.TURN_KEYS, 3),
        (json.dumps([*game()[:3], player(4, "look") | {"role": "player"}]), AnswerRule.TURN_KEYS, 3),
        (json.dumps([*game()[:3], player(4, "look") | {"turn": "4"}]), AnswerRule.TURN_KEYS, 3),
        (json.dumps([*game()[:2], dm(3) | {"place_error": 0}]), AnswerRule.TURN_KEYS, 2),
        (json.dumps([*game()[:2], dm(3) | {"thought": "\ud800"}]), AnswerRule.INVALID_TEXT, 2),
        (json.dumps([*game()[:2], dm(3) | {"place_error": float("nan")}]), AnswerRule.NOT_FINITE, 2),
        (game_text().replace('"turn": 3, ', '"turn": 3, "turn": 3, '), AnswerRule.DUPLICATE_KEY, 2),
        (game_text().replace('"turn": 3, ', '"turn": 3 '), AnswerRule.NOT_JSON, 2),
        (game_text()[:-1] + ", oops", AnswerRule.NOT_JSON, len(game())),
        (
            json.dumps([*game()[:2], {"role": "DM", "x": "DEEP"}]).replace('"DEEP"', "[" * 99 + "]" * 99),
            AnswerRule.TOO_DEEP,
            2,
        ),
        (json.dumps([*game()[:2], "DEEP"]).replace('"DEEP"', '{"a":' * 9999), AnswerRule.TOO_DEEP, 2),
    ],
)
def test_what_cannot_be_read_has_a_name_and_leaves_the_turns_before(text, rule, read):
    turns, problem = as_values(text)
    assert turns == game()[:read]
    assert problem is not None
    assert problem.rule is rule
    assert len(problem.message) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "[{'turn" * 28_000,
        '[{"turn": 1, "x": "' + '", ' * 60_000,
        "[" + "{'a': 1, " * 20_000,
        "[" + "{'a'=1}," * 20_000,
        "[{}" + " , " * 60_000,
        "[{" + " " * 190_000,
    ],
)
def test_hostile_texts_end_soon(text):
    started = time.perf_counter()
    assert parse_turns(text).problem is not None
    assert time.perf_counter() - started < 2


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(game_text())), st.text(alphabet="{}[]\"',:\\ \ntrue0aN", max_size=8), st.integers(0, 8))
def test_damage_anywhere_never_changes_the_turns_before_it(position, insertion, removed):
    text = game_text()
    read, _ = as_values(text[:position] + insertion + text[position + removed :])
    untouched = 0
    for turn in game():
        if text.index(json.dumps(turn)) + len(json.dumps(turn)) > position:
            break
        untouched += 1
    assert read[:untouched] == game()[:untouched] or position < 10
