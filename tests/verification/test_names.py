"""A value of a script is named by whole words of the environment: case, plurals, punctuation and writing systems."""

import pytest

from agentrefine.verification.script_rules import Names, ScriptRule, verify_script
from tests.verification.test_verification import with_action

NAMED = [
    # the environment, a value that it names, one that comes near and is not named
    ("pots", "pot", "pota"),
    ("a pot.", "pot", "po"),
    ("potatoes", "potato", "pot"),
    ("boxes", "box", "boxer"),
    ("berries", "berry", "berr"),
    ("two knives", "knife", "kni"),
    ("shelf", "shelves", "shell"),
    ("children", "child", "chil"),
    ("the men", "man", "me"),
    ("glass", "glasses", "glas"),
    ("front desk", "front desk", "front door"),
    ("Front_Desk-2", "front desk", "front desks office"),
    ("frontDesk", "front desk", "ront desk"),
    ("room3", "room 3", "room 4"),
    ("room3", "room", "roo"),
    ("the cook's knife", "cook's knife", "cook's spoon"),
    ("the cook’s knife", "cook", "coo"),
    ("pot-holder", "pot", "hold"),
    ("(lamp), rope; map!", "rope", "rop"),
    ("桌子上有一盏灯", "灯", "绳子"),
    ("ランプとロープ", "ロープ", "地図"),
    ("โคมไฟบนโต๊ะ", "โคมไฟ", "เชือก"),
    ("램프를 든다", "램프", "밧줄"),
    ("على المصباح غبار", "مصباح", "حبل"),
    ("Шкаф с лампами", "лампа", "вилка"),
    ("Лампа", "лампа", "ламп" * 3),
    ("столе", "стол", "сто" * 2),
    ("Café", "cafe\u0301", "cafes"),
    ("Schlüsselbund", "Schlüsselbund", "Schlüssel"),
    ("卡拉OK机", "OK机", "OK灯"),
]


@pytest.mark.parametrize(("text", "named", "near"), NAMED)
def test_a_name_is_held_by_whole_words(text, named, near):
    names = Names([text])
    assert names.hold(named)
    assert names.hold(named.upper())
    assert not names.hold(near)


def test_the_words_of_a_name_may_stand_in_different_texts_and_numbers_are_free():
    assert Names(["old", "a map"]).hold("old map")
    assert not Names(["old"]).hold("old map")
    for free in ("12", "..", "3-4", "/"):
        assert Names([]).hold(free)


@pytest.mark.parametrize(("value", "rule"), [("potato", None), ("pot", ScriptRule.UNKNOWN_VALUE)])
def test_a_value_inside_a_longer_word_of_the_environment_is_unknown(value, rule):
    problem = verify_script(with_action("give {item}", "give .*", {"item": [value]}, ["potatoes"])).problem
    assert (problem.rule if problem else None) is rule
