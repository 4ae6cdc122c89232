"""Scripts and turns read from an answer, in JSON as language models write it.

It stands in fences and prose, with trailing commas and single quotes, cut off in the middle. Sound JSON is parsed
strictly. Of the rest, each value that is complete (its brackets close) is fixed; what is cut off is never completed.
Time and memory are bounded for any text.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError

from agentrefine.files import first_problem
from agentrefine.game.script import Script
from agentrefine.game.text import is_unicode
from agentrefine.game.trajectory import DMTurn, PlayerTurn, Turn
from agentrefine.game.verdict import Problem, Rule, RuleBrokenError, quoted
from agentrefine.llm.thinking import without_thinking
from agentrefine.verification.shared_rules import first_phrase

MAX_ANSWER = 200_000
"""The characters of an answer; a long game has about 20,000."""
MAX_ELEMENTS = 1000
"""The elements of a list that is no sound JSON as a whole; a long game has 60."""
MAX_DEPTH = 40
"""The levels of nesting."""
MAX_PREAMBLE = 500
"""The characters at the beginning of an answer in which one that declines says so."""

_BEGINS_WITH_JSON = re.compile(r"\s*(?:[{`]|\[(?!THINK\]))")
_LIST_OF_TURNS = re.compile(r"""\[\s*\{\s*["'](?:turn|role)""")
_LIST = re.compile(r"\[\s*[\]{]")
_OBJECT = re.compile(r"""\{\s*["'}]""")
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_CONSTANT = re.compile(r"\b(?:True|False|None)\b")
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_INNER = re.compile(r"""\\.|["\x00-\x1f]""", re.DOTALL)
_GAP = re.compile(r"[\s,]*")
_SIGNS = re.compile(r"""\\.|[{}\[\]]|["'](?P<closes>(?=\s*(?:[,:}\]]|\Z)))?""", re.DOTALL)


class AnswerRule(Rule):
    """A rule that any answer can break: it holds no script or turns of the asked form."""

    NO_ANSWER = "no_answer", "the endpoint gave no answer: it failed in spite of all retries, or refused the prompt"
    EMPTY_ANSWER = "empty_answer", "the answer holds nothing"
    TOO_LONG = "too_long", "the answer has more characters than anything sensible needs"
    REFUSAL = "refusal", "the answer declines to write what was asked for"
    NOT_JSON = "not_json", "no JSON of the asked form can be read from the answer"
    CUT_OFF = "cut_off", "the JSON ends in the middle"
    TOO_DEEP = "too_deep", "the JSON is nested deeper than any game needs"
    DUPLICATE_KEY = "duplicate_key", "an object of the JSON has the same key twice"
    NOT_FINITE = "not_finite", "the JSON holds NaN or an infinite number"
    INVALID_TEXT = "invalid_text", "a text holds characters that are not Unicode (a lone half of a pair)"
    SCRIPT_KEYS = "script_keys", "a key of the script is missing or has a value of the wrong type"
    TURN_KEYS = "turn_keys", "a turn's keys are not the required ones, or a value has the wrong type"


def load_object(text: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        RuleBrokenError: there is none, it is cut off, or it cannot be fixed.
    """
    text = _answer(text, "one JSON object")
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        start = _OBJECT.search(text)
        if start is None:
            raise _no_json(text, "holds no JSON object", "JSON object") from None
        value, _ = _value_at(text, start.start(), "the object")
    if not isinstance(value, dict):
        raise _no_json(text, "is JSON but not an object", "JSON object")
    return value


def list_elements(text: str) -> Iterator[Any]:
    """The elements of the JSON list in a text, or of the list in a JSON object that wraps it.

    Raises:
        RuleBrokenError: there is no list, or its next element cannot be read; `turn` counts the elements from 1.
    """
    text = _answer(text, "one JSON list of turns")
    values = _whole_list(text)
    if values is not None:
        yield from values
        return
    start = _LIST_OF_TURNS.search(text) or _LIST.search(text)
    if start is None:
        raise _no_json(text, "holds no JSON list", "JSON list")
    position = start.start() + 1
    for number in range(1, MAX_ELEMENTS + 1):
        gap = _GAP.match(text, position)
        position = gap.end() if gap else position
        if position == len(text):
            message = f"The answer ends after element {number - 1} without closing the list; write it whole."
            raise AnswerRule.CUT_OFF.broken(message, number)
        if text[position] == "]":
            return
        try:
            value, position = _value_at(text, position, f"element {number} of the list")
        except RuleBrokenError as error:
            raise RuleBrokenError(error.problem._replace(turn=number)) from None
        yield value
    message = f"The list has more than {MAX_ELEMENTS} elements; write a game of fewer turns."
    raise AnswerRule.TOO_LONG.broken(message, MAX_ELEMENTS)


def check_values(value: Any) -> list[str]:  # noqa: ANN401
    """All keys and strings of a nested value, in order.

    Raises:
        RuleBrokenError: it is nested too deep, or holds a number that is not finite or a text that is not Unicode.
    """
    strings: list[str] = []
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            strings.append(item)
        elif isinstance(item, float) and not math.isfinite(item):
            _refuse_constant(str(item))
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise _too_deep()
            if isinstance(item, dict):
                strings.extend(item)
            pending.extend((child, depth + 1) for child in (item.values() if isinstance(item, dict) else item))
    _check_unicode("".join(strings))
    return strings


def _answer(text: str, expected: str) -> str:
    """The answer without the reasoning that some servers put before it; a draft in there is not the answer."""
    text = text if _BEGINS_WITH_JSON.match(text) else without_thinking(text)
    if not text or text.isspace():
        raise AnswerRule.EMPTY_ANSWER.broken(f"The answer is empty; answer with {expected}.")
    if len(text) > MAX_ANSWER:
        raise AnswerRule.TOO_LONG.broken(
            f"The answer has {len(text)} characters, {MAX_ANSWER} are the most; write less."
        )
    _check_unicode(text)
    return text


def _no_json(text: str, found: str, expected: str) -> RuleBrokenError:
    """What an answer breaks that holds nothing of the asked form."""
    refused = first_phrase("refusals", text[:MAX_PREAMBLE]) is not None
    found = "declines to write what was asked for" if refused else found
    rule = AnswerRule.REFUSAL if refused else AnswerRule.NOT_JSON
    return rule.broken(f"The answer {found}; answer with one {expected} only.")


def _check_unicode(text: str) -> None:
    if not is_unicode(text):
        raise AnswerRule.INVALID_TEXT.broken("A text holds a lone half of a Unicode pair; write plain characters.")


def _whole_list(text: str) -> list[Any] | None:
    """The list when the whole text is sound JSON, else None: then its elements are read one by one."""
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError, RuleBrokenError):
        return None
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        value = next((item for item in lists if item and isinstance(item[0], dict) and "role" in item[0]), None)
    if not isinstance(value, list):
        raise _no_json(text, "is JSON but not a list of turns", "JSON list of turns")
    return value


def _value_at(text: str, start: int, name: str) -> tuple[Any, int]:
    """The value that begins at `start`, fixed if need be, and where it ends."""
    try:
        return _DECODER.raw_decode(text, start)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        if text[start] not in "{[":
            raise AnswerRule.NOT_JSON.broken(f"{name} is no JSON object; write sound JSON.") from None
        fixed = _fixed(text, start)
    if fixed is None:
        raise AnswerRule.CUT_OFF.broken(f"The answer ends in the middle of {name}; write it whole, and shorter.")
    value_text, end = fixed
    try:
        return _DECODER.decode(value_text), end
    except json.JSONDecodeError as error:
        near = f", near {quoted(value_text[max(0, error.pos - 20) : error.pos + 20])}: {error.msg}"
    except (ValueError, RecursionError):
        near = ""
    raise AnswerRule.NOT_JSON.broken(f"JSON error in {name}{near}; write sound JSON.")


def _fixed(text: str, start: int) -> tuple[str, int] | None:
    """The bracketed value at `start` as JSON, and where it ends; None when its bracket is not closed.

    Fixes quotes, trailing commas and Python's constants, nothing else: no text, key or value is made up. A quote ends a
    string only before a comma, colon or closing bracket, so that apostrophes and unescaped quotes inside it are kept.
    """
    pieces: list[str] = []
    depth, quote, done = 0, "", start
    for sign in _SIGNS.finditer(text, start):
        character = sign.group()
        if quote:
            if character == quote and sign.group("closes") is not None:
                pieces.append(f'"{_INNER.sub(_escaped, text[done : sign.start()])}"')
                quote, done = "", sign.end()
        elif character in "\"'":
            pieces.append(_structure(text[done : sign.start()]))
            quote, done = character, sign.end()
        elif character in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep()
        elif character in "}]":
            depth -= 1
        if depth == 0:
            break
    if depth or quote:
        return None
    end = sign.end()
    pieces.append(_structure(text[done:end]))
    return "".join(pieces), end


def _structure(text: str) -> str:
    return _CONSTANT.sub(lambda name: _CONSTANTS[name.group()], _TRAILING_COMMA.sub("", text))


def _escaped(found: re.Match[str]) -> str:
    character = found.group()
    if character == "\\'":
        return "'"
    return character if character[0] == "\\" else json.dumps(character)[1:-1]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = quoted(Counter(key for key, _ in pairs).most_common(1)[0][0])
        raise AnswerRule.DUPLICATE_KEY.broken(f"The key {twice} stands twice in one object; write each key once.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise AnswerRule.NOT_FINITE.broken(f"The JSON holds {name}; write finite numbers only.")


def _too_deep() -> RuleBrokenError:
    return AnswerRule.TOO_DEEP.broken(f"The JSON is nested deeper than {MAX_DEPTH} levels; nest less.")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def parse_script(text: str) -> Script:
    """The script in a teacher's answer: its JSON and its keys are sound. `verify_script` checks the rest.

    Fences, prose around the JSON, trailing commas, single quotes and an object that wraps the script are accepted.

    Raises:
        RuleBrokenError: the answer holds no script; says which rule it breaks and what to change.
    """
    value = load_object(text)
    if "environment" not in value and len(value) == 1:
        (inner,) = value.values()
        value = inner if isinstance(inner, dict) else value
    check_values(value)
    try:
        return Script.model_validate(value)
    except ValidationError as error:
        message = f"The script is not of the asked form: {legible(first_problem(error))} Write all keys as asked."
        raise AnswerRule.SCRIPT_KEYS.broken(message) from None


class TurnsFinding(NamedTuple):
    """The leading turns of a game that are sound, and the first rule broken; None when all are sound."""

    turns: list[Turn]
    problem: Problem | None


def parse_turns(text: str) -> TurnsFinding:
    """The turns in a teacher's answer whose keys and types are sound, whatever it holds; never raises.

    Fences, prose around the JSON, trailing commas, single quotes and an object that wraps the list are accepted. Of
    JSON that is cut off, the complete turns before the cut are read. The problem's `turn` counts those of the answer.
    """
    has_escapes = "\\u" in text
    turns: list[Turn] = []
    number = 0
    try:
        for number, value in enumerate(list_elements(text), start=1):
            turns.append(_turn(value, number, has_escapes))
    except RuleBrokenError as error:
        return TurnsFinding(turns, error.problem._replace(turn=error.problem.turn or number or None))
    empty = Problem(AnswerRule.EMPTY_ANSWER, "The list of turns is empty; write the turns.")
    return TurnsFinding(turns, None if turns else empty)


def _turn(value: Any, number: int, has_escapes: bool) -> Turn:  # noqa: ANN401
    role = value.get("role") if isinstance(value, dict) else None
    if role not in ("DM", "Player"):
        check_values(value)  # what breaks its rules cannot be shown in a message
        message = f'Element {number} of the list is no turn: it needs a key "role" that is "DM" or "Player"; found '
        raise AnswerRule.TURN_KEYS.broken(f"{message}{quoted(value)}.")
    if has_escapes:  # only they can bring what is not Unicode
        check_values(value)
    try:
        return DMTurn.model_validate(value) if role == "DM" else PlayerTurn.model_validate(value)
    except ValidationError as error:
        check_values(value)
        message = f"Element {number} of the list, a {role} turn, does not have exactly the required keys: "
        message = f"{message}{legible(first_problem(error))} Write the keys as asked."
        raise AnswerRule.TURN_KEYS.broken(message) from None


def legible(sentence: str, max_characters: int = 500) -> str:
    """A sentence with an answer's own words in it as a message shows it: on one line, its middle left out when long."""
    if len(sentence) > max_characters:
        sentence = f"{sentence[: max_characters // 2]}...{sentence[-max_characters // 2 :]}"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in sentence)
