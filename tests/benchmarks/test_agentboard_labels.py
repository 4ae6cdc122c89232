"""AgentBoard's labels: how sub-goals are counted, hostile expressions, and files that cannot be used."""

import json
import re
import time

import pytest

from agentrefine.benchmarks.agentboard.benchmark import AgentBoardBabyAI
from agentrefine.benchmarks.agentboard.labels import (
    TASKS,
    BabyAILabel,
    Expressions,
    SubgoalPhrases,
    passage_shows,
    read_labels,
    sentence_shows,
)
from tests.helpers.agentboard_data import RED_BALL, labelled
from tests.helpers.errors import refused

# Sub-goals.


def test_expressions_count_in_any_order_and_many_at_once():
    subgoals = Expressions(["You pick up the mug", r"^(?=.* you see)(?=.*a mug \d+)", "You heat the mug"], "here")
    shares = []
    for said in ("You heat the mug 1.", "On the desk 1, you see a mug 1. You pick up the mug.", "You heat the mug 1."):
        subgoals.read(said)
        shares.append(subgoals.share())
    assert shares == [1 / 3, 1, 1]
    assert subgoals.share(further=1) == 3 / 4


@pytest.mark.parametrize(
    "expression",
    [
        r"^(?=.* you see)(?=.*a mug \d+)",
        r"^(?=.*a mug)On",
        r"^(?=[)(\]]*x|On)(?=.*[]]?)",
        r"^(?=.*\))(?=.*a)",
        "^(?=(On|In) the)(?=.*mug)",
        "a (mug|bowl) 1",
        "^the",
        r"temperature of (\d+) degrees",
    ],
)
def test_expressions_match_where_pythons_own_do(expression):
    for said in (
        "On the desk 1, you see a mug 1.",
        "In the box you see (a mug 12)",
        "the temperature of 10 degrees",
        "",
    ):
        subgoals = Expressions([expression], "here")
        subgoals.read(said)
        assert subgoals.share() == bool(re.search(expression, said)), said


@pytest.mark.parametrize(
    "expression",
    [r"(a)\1", "(?=.*a)b", "^(?=a)*b", "^(?=a", "^(?=(?=a)b)c", "^(?=a)b|c", "(?<=a)b", "(", "a{1,9999}", "(?!x)y"],
)
def test_an_expression_that_re2_cannot_match_is_reported_with_its_line(tmp_path, expression):
    label = {
        "id": 0,
        "goal": "x",
        "difficulty": "hard",
        "subgoals": ["fine", expression],
        "additional_info": {"env_name": "boil", "var": 21},
    }
    place = f"{tmp_path}/data/scienceworld/test.jsonl, line 1"
    with refused("bad_expression", place=place, value=expression):
        labelled(tmp_path, "sciworld", label)


def test_an_expression_that_takes_others_forever_is_matched_at_once():
    subgoals = Expressions(["(a+)+$", "(x+x+)+y", "^(?=(a|a)*c)"], "here")
    began = time.monotonic()
    subgoals.read("a" * 100_000 + "b" + "x" * 100_000)
    assert (subgoals.share(), time.monotonic() - began < 2) == (0, True)


def test_phrases_count_once_an_observation_in_the_order_of_the_label():
    subgoals = SubgoalPhrases([["You see a **", "You see a **", "key"]], sentence_shows)
    shares = []
    for said in ("You see a key.", "You see a key.", "Nothing.", "You see a key."):
        subgoals.read(said)
        shares.append(subgoals.share())
    assert shares == [1 / 3, 2 / 3, 2 / 3, 1]


def test_phrases_of_several_ways_are_the_same_sub_goals():
    subgoals = SubgoalPhrases([["red door", "blue ball"], ["green door", "blue ball"]], sentence_shows)
    for said, share in (("a green door", 1 / 2), ("a red door", 1 / 2), ("a blue ball", 1), ("a blue ball", 1)):
        subgoals.read(said)
        assert subgoals.share() == share


def test_a_phrase_is_met_within_one_sentence_and_a_passage_without_punctuation():
    seen = "There is a red ball 1 2 steps in front of you. There is a key right in front of you 1 steps away."
    assert sentence_shows(seen, " There is a red ball ** steps in front of you.")
    assert not sentence_shows(seen, "There is a red ball ** 1 steps away.")
    assert sentence_shows("You carry a red ball.", "You carry a * ball.")
    assert passage_shows("Well, the 'gate' opens!", "the gate opens.")
    assert not passage_shows("the Gate opens", "the gate opens")


# Labels that cannot be used.


def info(**values):
    return {"additional_info": values}


@pytest.mark.parametrize(
    ("name", "change", "code", "values"),
    [
        ("babyai", {"goal": None}, "bad_record", {"key": "goal"}),
        ("babyai", {"id": "three"}, "bad_record", {"key": "id"}),
        ("babyai", {"id": 112}, "bad_value", {"key": "id", "value": 112, "episodes": 112}),
        ("babyai", {"id": 4}, "label_mismatch", {"expected": "GoToRedBall", "found": "GoToRedBallGrey"}),
        ("babyai", {"difficulty": "medium"}, "bad_record", {"key": "difficulty"}),
        ("babyai", {"subgoals": []}, "bad_record", {"key": "subgoals.0"}),
        ("babyai", {"subgoals": [["a", "b"], ["c"]]}, "bad_record", {"key": ""}),
        ("babyai", info(), "bad_record", {"key": "additional_info.subtask"}),
        ("sciworld", info(env_name="cook", var=1), "unknown_name", {"name": "cook"}),
        ("sciworld", info(env_name="boil", var=-1), "bad_record", {"key": "additional_info.var"}),
        ("alfworld", info(description="../../etc"), "bad_record", {"key": "additional_info.description"}),
        ("alfworld", info(description="pick-1/trial"), "file_missing", {"name": "pick-1/trial"}),
        ("jericho", {"id": 0}, "file_missing", {"name": "905"}),
        ("pddl", info(subtask="gripper"), "episode_missing", {"domain": "gripper", "found": 0}),
    ],
)
def test_a_bad_label_is_reported_with_its_line(tmp_path, name, change, code, values):
    (tmp_path / "valid_unseen").mkdir()
    (tmp_path / "lamps").mkdir()
    (tmp_path / "lamps.pddl").write_text("(define (domain lamps))")
    (tmp_path / "lamps" / "one.pddl").write_text("(define (problem one) (:domain lamps))")
    folders = {"alfworld": tmp_path, "jericho": tmp_path, "pddl": tmp_path}
    data = {name: str(folders[name])} if name in folders else {}
    place = f"{tmp_path}/data/{TASKS[name]}/test.jsonl, line 1"
    with refused(code, place=place, **values):
        labelled(tmp_path, name, RED_BALL | change, **data)


def test_what_is_labelled_twice_is_reported(tmp_path):
    line_1, line_2 = (f"{tmp_path}/data/babyai/test.jsonl, line {line}" for line in (1, 2))
    with refused("duplicate_id", place=line_2, id=3, earlier=line_1):
        labelled(tmp_path, "babyai", RED_BALL, RED_BALL)
    variation = RED_BALL | {"subgoals": ["You focus"], "additional_info": {"env_name": "boil", "var": 21}}
    line_1, line_2 = (f"{tmp_path}/data/scienceworld/test.jsonl, line {line}" for line in (1, 2))
    with refused("duplicate_label", place=line_2, earlier=line_1):
        labelled(tmp_path, "sciworld", variation, variation | {"id": 4})


def test_a_byte_order_mark_a_blank_line_and_a_list_are_read(tmp_path):
    lines = [json.dumps(RED_BALL | {"id": number}) for number in range(2)]
    texts = ["\ufeff" + "\n".join(lines), "\n\n".join(lines) + "\n \n", f"[{','.join(lines)}]"]
    file = tmp_path / "test.jsonl"
    for text in texts:
        file.write_text(text, encoding="utf-8")
        assert [label.id for _, label in read_labels(file, BabyAILabel)] == [0, 1]
    assert [place for place, _ in read_labels(file, BabyAILabel)] == [f"{file}, element 1", f"{file}, element 2"]


def test_a_line_that_is_no_json_is_reported(tmp_path):
    labelled(tmp_path, "babyai", RED_BALL)
    file = tmp_path / "data" / "babyai" / "test.jsonl"
    file.write_bytes(file.read_bytes() + b"\xff{\n")
    with refused("not_utf8", file=file, line=2):
        AgentBoardBabyAI(file)


def test_ways_to_the_goal_may_stand_under_keys_of_their_own(tmp_path):
    file = tmp_path / "test.jsonl"
    line = {key: value for key, value in RED_BALL.items() if key != "subgoals"}
    file.write_text(json.dumps(line | {"subgoals_1": ["a", "b"], "subgoals_2": ["c", "d"]}))
    [(_, label)] = read_labels(file, BabyAILabel)
    assert label.subgoals == [["a", "b"], ["c", "d"]]
