"""The answers of tests/data/bad_answers: literal texts, or the good script and game with a few changes."""

import json
from copy import deepcopy
from typing import Any

import yaml

from tests.helpers.games import GOOD_STEPS, game, script_value
from tests.helpers.paths import DATA

FOLDER = DATA / "bad_answers"
KEPT_BEFORE = 5
"""The number of turns before a continuation."""


def cases(name: str) -> list[dict[str, Any]]:
    found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert len({case["name"] for case in found}) == len(found)
    return found


def answer(case: dict[str, Any], kind: str) -> str:
    """The text of a case.

    `text`: as it stands. `repeat`: pairs of text and times. Otherwise the good value with `set` (path and value),
    `without` (a key), `remove`, `insert` (of turns), `actions`, `values`, `looks` (so many more), written as JSON, with
    `replace` (old, new, times), `keep_first` and `cut` (characters), `before` and `after`.
    """
    if "text" in case:
        return case["text"]
    if "repeat" in case:
        return "".join(text * times for text, times in case["repeat"])
    value = _changed(case, script_value() if kind == "script" else game(_steps(case)))
    if kind == "continuation":
        value = value[case.get("from", KEPT_BEFORE) :]
    text = json.dumps(value, ensure_ascii=case.get("escaped", False))
    for old, new, *times in case.get("replace", []):
        assert old in text, old
        text = text.replace(old, new * (times[0] if times else 1))
    text = text[: case.get("keep_first", len(text))]
    text = text[: len(text) - case.get("cut", 0)]
    return case.get("before", "") + text + case.get("after", "")


def _steps(case: dict[str, Any]) -> list[tuple[str, str]]:
    return [*GOOD_STEPS, *[("look", "")] * case.get("looks", 0)]


def _changed(case: dict[str, Any], value: Any) -> Any:
    for path, new in case.get("set", []):
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = deepcopy(new)
    if "without" in case:
        del value[case["without"]]
    if "remove" in case:
        del value[case["remove"]]
    if "insert" in case:
        position, element = case["insert"]
        value.insert(position, element)
    for number in range(case.get("actions", 0)):
        value["available_actions"][f"wait {number}"] = value["available_actions"]["look"]
    if "values" in case:
        numbers = [str(number) for number in range(case["values"])]
        value["available_actions"]["take {item}"]["parameters"]["item"] = numbers
    return value
