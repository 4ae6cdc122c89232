"""The rules for scripts (paper, section 3.1: a script whose actions do not match their own codes is written again)."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import product, zip_longest
from math import prod
from typing import NamedTuple

from agentrefine.game.actions import MAX_ACTION, MAX_STEPS_OF_A_MATCH, PLACEHOLDER, ActionSpec, Command
from agentrefine.game.characters import first_word_of_name
from agentrefine.game.script import Script
from agentrefine.game.verdict import Problem, Rule, RuleBrokenError, quoted
from agentrefine.verification.reading import check_values, parse_script
from agentrefine.verification.text_rules import check_script_texts

# Bounds of a script: far above what a player can use, low enough that every check stays fast.
MAX_ACTIONS = 100
MAX_PLACEHOLDERS = 6
MAX_VALUES = 500
MAX_VALUES_IN_ALL = 3000
MAX_TEMPLATE = 200
MAX_VALUE = 200
MAX_CODE = 20_000
MAX_COMPARISONS = 1_000_000
"""The places at which an action may be compared with a value when all actions are compared with all templates."""
MAX_MATCHING_STEPS = 100_000_000
"""The instructions of the compiled codes times the characters that they read: the work of the linear-time engine."""
MAX_READINGS_OF_CODES = 2000
"""The strings that other codes accept and that are then searched for those codes' values."""
MAX_COMBINATIONS = 32
"""The ways to fill a template that are all checked; of what has more, each value is."""

MAX_ENDING = 3
"""Letters that an inflected word of another language than English may have after the name (`лампа`, `лампами`)."""
MIN_STEM = 3
"""Letters of a name that may be inflected so."""

_WORD = re.compile(r"[^\W_]+")
_POSSESSIVE = re.compile(r"['’]s\b")
_INNER_WORDS = re.compile(r"[^\W\d_]+|\d+")
_CAPITAL_INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SEPARATE_WORDS = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN"})
"""Alphabets in which a word stands between spaces and is inflected at its end. Others write words without spaces, or
put articles and particles before and after them, so that a name may be any part of a word there.
"""
_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "louse": "lice", "ox": "oxen", "die": "dice",
}  # fmt: skip


class Names:
    """The words of some texts, to ask which names they hold."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Take the texts apart; a name with several words may have them in different ones."""
        whole = unicodedata.normalize("NFC", "\n".join(texts))
        self._text = _POSSESSIVE.sub("", whole.lower())
        words = {*_WORD.findall(self._text), *_WORD.findall(_CAPITAL_INSIDE.sub(" ", whole).lower())}
        self._words = words | {inner for word in words for inner in _INNER_WORDS.findall(word)}
        self._plurals = {plural for word in self._words for plural in plurals(word)}

    def hold(self, name: str) -> bool:
        """Whether each word of a name is one of the words. A name without letters (a number, `..`) always is."""
        words = _WORD.findall(_POSSESSIVE.sub("", unicodedata.normalize("NFC", name).lower()))
        if not any(character.isalpha() for word in words for character in word):
            return True
        return all(self._has(word) for word in words)

    def _has(self, word: str) -> bool:
        if word in self._words or word in self._plurals or not self._words.isdisjoint(plurals(word)):
            return True
        alphabets = {first_word_of_name(letter) for letter in word if letter.isalpha()}
        if not alphabets <= _SEPARATE_WORDS:
            return word in self._text
        if word.isascii() or len(word) < MIN_STEM:
            return False
        return any(other.startswith(word) and len(other) - len(word) <= MAX_ENDING for other in self._words)


def plurals(word: str) -> set[str]:
    """The plurals that an English word may have; none of a word with other letters than English ones."""
    if not (word.isascii() and word.isalpha()):
        return set()
    if word in _IRREGULAR:
        return {_IRREGULAR[word]}
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return {f"{word}es"}
    forms = {f"{word}s"}
    if word.endswith("o"):
        forms.add(f"{word}es")
    if word.endswith("y"):
        forms.add(f"{word[:-1]}ies")
    if word.endswith(("f", "fe")):
        forms.add(f"{word.removesuffix('e')[:-1]}ves")
    return forms


class ScriptFinding(NamedTuple):
    """The script of an answer, or why there is none: one of the two is None."""

    script: Script | None
    problem: Problem | None


def verify_script(text: str) -> ScriptFinding:
    """The script in an answer when it is sound (paper: each action's own name matches its verification code).

    Of each template, all filled strings are checked where they are few; else the string with every placeholder at its
    first value, and those in which one placeholder takes each of its other values. None of them may be a valid use of
    another action too: neither letter for letter, nor by the other action's code with valid values of its own.

    A valid value must name something: its words all occur in the keys and strings of the environment, as whole words
    (`Names`). Values without any letter (numbers, `..`) are free; settings, directions and words to say must be listed
    in the environment too.
    """
    try:
        script = parse_script(text)
        _check_sizes(script)
        for template, spec in script.available_actions.items():
            _check_placeholders(template, spec)
        check_script_texts(script)
        commands = script.actions.commands
        _check_work(script)
        for command in commands:
            _check_own_strings(command, script.available_actions[command.template], commands)
        _check_codes_apart(script)
        _check_values_exist(script)
    except RuleBrokenError as error:
        return ScriptFinding(None, error.problem)
    return ScriptFinding(script, None)


def _check_sizes(script: Script) -> None:
    if len(script.available_actions) > MAX_ACTIONS:
        raise _too_large(f"There are {len(script.available_actions)} actions; write {MAX_ACTIONS} at most.")
    for template, spec in script.available_actions.items():
        name = quoted(template)
        if len(template) > MAX_TEMPLATE:
            raise _too_large(f"Template {name} is too long; write a short command.")
        if len(spec.parameters) > MAX_PLACEHOLDERS or template.count("{") > MAX_PLACEHOLDERS:
            raise _too_large(f"{name} has more than {MAX_PLACEHOLDERS} placeholders; use fewer.")
        for parameter, values in spec.parameters.items():
            if len(values) > MAX_VALUES or any(len(value) > MAX_VALUE for value in values):
                raise _too_large(
                    f"Parameter {quoted(parameter)} of {name} has more than {MAX_VALUES} values, or one of more than "
                    f"{MAX_VALUE} characters; write fewer and shorter ones."
                )
        longest = len(template) + sum(max(map(len, values), default=0) for values in spec.parameters.values())
        if longest > MAX_ACTION or len(spec.verification_code) > MAX_CODE:
            raise _too_large(
                f"{name} with its longest values has more than {MAX_ACTION} characters, or its verification_code "
                f"more than {MAX_CODE}; write shorter ones."
            )
    total = sum(len(values) for spec in script.available_actions.values() for values in spec.parameters.values())
    if total > MAX_VALUES_IN_ALL:
        raise _too_large(f"The actions have {total} valid values in all; write {MAX_VALUES_IN_ALL} at most.")


def _too_large(message: str) -> RuleBrokenError:
    return RuleBrokenError(Rule.TOO_LARGE, message)


def _check_work(script: Script) -> None:
    """Bounds the work of checking a script, and the actions of its games, before it begins."""
    strings = comparisons = steps = 0
    for command in script.actions.commands:
        filled = [len(text) for text in _filled(command, script.available_actions[command.template])]
        longest = sum(map(len, command.literals)) + sum(map(max, command.lengths))
        if command.code.programsize * longest > MAX_STEPS_OF_A_MATCH:
            raise _too_large(
                f"The verification_code of {quoted(command.template)} is too large a program for its actions; write a "
                "simpler one, without large counted repetitions."
            )
        strings += len(filled)
        comparisons += 1 + sum(map(len, command.lengths))
        steps += command.code.programsize * sum(filled)
    if strings * comparisons > MAX_COMPARISONS or steps > MAX_MATCHING_STEPS:
        raise _too_large(
            "The actions have too many values, or too large verification codes, to be compared with each other; write "
            "fewer actions and values, and simpler codes."
        )


def _check_placeholders(template: str, spec: ActionSpec) -> None:
    names = PLACEHOLDER.findall(template)
    stray = set("{}") & set(PLACEHOLDER.sub("", template))
    if stray or "}{" in template or len(set(names)) < len(names) or set(names) != set(spec.parameters):
        raise RuleBrokenError(
            Rule.PLACEHOLDERS,
            f"The placeholders of {quoted(template)} are {quoted(names)} and its parameters are "
            f"{quoted(list(spec.parameters))}; they must be the same, each once, with text between them and no "
            "other braces.",
        )
    for name, values in spec.parameters.items():
        if not values or any(not value.strip() for value in values):
            where = f"Parameter {quoted(name)} of {quoted(template)}"
            raise RuleBrokenError(Rule.NO_VALUES, f"{where} has no valid value or an empty one; list its values.")


def _check_own_strings(command: Command, spec: ActionSpec, commands: Sequence[Command]) -> None:
    for filled in _filled(command, spec):
        if not command.is_filled_as(filled):
            raise _too_large(
                f"{quoted(filled)} can be divided between the placeholders of {quoted(command.template)} in too many "
                "ways; word the template so that its values stand apart."
            )
        if command.code.fullmatch(filled.encode()) is None:
            raise RuleBrokenError(
                Rule.ACTION_MISMATCH,
                f"The verification_code {quoted(spec.verification_code)} of {quoted(command.template)} does not match "
                f"{quoted(filled)}, which is the template with valid values; correct the code or the values.",
            )
        for other in commands:
            if other is not command and other.matches(filled):
                both = f"{quoted(command.template)} and {quoted(other.template)}"
                message = f"{quoted(filled)} is both {both}; word one of the templates differently."
                raise RuleBrokenError(Rule.AMBIGUOUS_ACTIONS, message)


def _check_codes_apart(script: Script) -> None:
    """Whether no code takes another action's strings with valid values.

    The first string of every action comes first, then the second ones; where the codes would have too much to do, the
    last strings are left out.
    """
    commands = script.actions.loose_commands
    filled = [list(_filled(loose.command, script.available_actions[loose.command.template])) for loose in commands]
    steps_a_character = sum(loose.command.code.programsize for loose in commands)
    steps = readings = 0
    for texts in zip_longest(*filled):
        for command, text in zip(commands, texts, strict=True):
            steps += steps_a_character * len(text or "")
            for other in commands:
                if text is None or other is command or not other.command.accepts(text):
                    continue
                readings += 1
                if steps > MAX_MATCHING_STEPS or readings > MAX_READINGS_OF_CODES:
                    return
                if other.takes(text):
                    own, name = quoted(command.command.template), quoted(other.command.template)
                    raise RuleBrokenError(
                        Rule.AMBIGUOUS_ACTIONS,
                        f"{quoted(text)} is {own}, and the verification_code of {name} accepts it too, with valid "
                        f"values of {name}; write a code that only its own action matches.",
                    )


def _filled(command: Command, spec: ActionSpec) -> Iterator[str]:
    """The command with all values where that is few; else with first values and one parameter at each of its others."""
    values = [spec.parameters[name] for name in command.names]
    if prod(map(len, values)) <= MAX_COMBINATIONS:
        yield from (_fill(command, choice) for choice in product(*values))
        return
    base = [known[0] for known in values]
    yield _fill(command, base)
    for position, known in enumerate(values):
        for value in known[1:]:
            yield _fill(command, [*base[:position], value, *base[position + 1 :]])


def _fill(command: Command, values: Sequence[str]) -> str:
    return "".join(literal + value for literal, value in zip(command.literals, [*values, ""], strict=True))


def _check_values_exist(script: Script) -> None:
    names = Names(check_values(script.environment))
    known: set[str] = set()
    for template, spec in script.available_actions.items():
        for parameter, values in spec.parameters.items():
            for value in values:
                if value not in known and not names.hold(value):
                    raise RuleBrokenError(
                        Rule.UNKNOWN_VALUE,
                        f"Value {quoted(value)} of parameter {quoted(parameter)} in {quoted(template)} names nothing "
                        "in the environment; put it into the environment by the same words, or remove the value.",
                    )
                known.add(value)
