"""The rules for scripts (paper, section 3.1: a script whose actions do not match their own codes is written again).

The rules for their texts are those of `shared_rules`. The environment is never shown, so it may hold any words in any
writing; only hidden characters are refused there, because values and leaks are compared with it.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain, product, zip_longest
from math import prod
from typing import NamedTuple

from agentrefine.game.actions import MAX_ACTION, MAX_STEPS_OF_A_MATCH, PLACEHOLDER, ActionSpec, Command, linear_regex
from agentrefine.game.script import Script
from agentrefine.game.text import first_word_of_name, own_writing, skeleton
from agentrefine.game.verdict import Problem, Rule, RuleBrokenError, quoted
from agentrefine.verification import shared_rules
from agentrefine.verification.reading import check_values, parse_script
from agentrefine.verification.shared_rules import SharedRule

# Bounds of a script: far above what a player can use, low enough that every check stays fast.
MAX_ACTIONS = 100
"""The most actions of a script."""
MAX_PLACEHOLDERS = 6
"""The most placeholders of an action."""
MAX_VALUES = 500
"""The most valid values of a parameter."""
MAX_VALUES_IN_ALL = 3000
"""The most valid values of all parameters of a script together."""
MAX_TEMPLATE = 200
"""The most characters of an action's template."""
MAX_VALUE = 200
"""The most characters of a valid value."""
MAX_CODE = 20_000
"""The most characters of an action's verification code."""
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


_NONLINEAR = re.compile(
    r"invalid perl operator: \(\?([=!>(]|<[=!]|P$)|invalid escape sequence: \\([1-9]|[kg])|bad repetition operator: .\+"
)


class ScriptRule(Rule):
    """A rule that a script can break."""

    TOO_LARGE = "too_large", "the script has more or longer actions, values or codes than a player can use"
    PLACEHOLDERS = "placeholders", "a template's placeholders and its parameters are not the same"
    NO_VALUES = "no_values", "a parameter has no value, or an empty one"
    NONLINEAR_REGEX = "nonlinear_regex", "a verification code needs lookaround or backreferences"
    INVALID_REGEX = "invalid_regex", "a verification code is not a regular expression"
    ACTION_MISMATCH = "action_mismatch", "a template filled with its own values does not match its verification code"
    AMBIGUOUS_ACTIONS = "ambiguous_actions", "two actions match the same command, by their templates or by their codes"
    UNKNOWN_VALUE = "unknown_value", "a valid value names nothing in the environment, where whole words count"


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
        _check_texts(script)
        for template, spec in script.available_actions.items():
            _check_code(template, spec)
        _check_commands(script)
        _check_values_exist(script)
    except RuleBrokenError as error:
        return ScriptFinding(None, error.problem)
    return ScriptFinding(script, None)


def _check_sizes(script: Script) -> None:
    if len(script.available_actions) > MAX_ACTIONS:
        message = f"There are {len(script.available_actions)} actions; write {MAX_ACTIONS} at most."
        raise ScriptRule.TOO_LARGE.broken(message)
    for template, spec in script.available_actions.items():
        name = quoted(template)
        if len(template) > MAX_TEMPLATE:
            raise ScriptRule.TOO_LARGE.broken(f"Template {name} is too long; write a short command.")
        if len(spec.parameters) > MAX_PLACEHOLDERS or template.count("{") > MAX_PLACEHOLDERS:
            raise ScriptRule.TOO_LARGE.broken(f"{name} has more than {MAX_PLACEHOLDERS} placeholders; use fewer.")
        for parameter, values in spec.parameters.items():
            if len(values) > MAX_VALUES or any(len(value) > MAX_VALUE for value in values):
                raise ScriptRule.TOO_LARGE.broken(
                    f"Parameter {quoted(parameter)} of {name} has more than {MAX_VALUES} values, or one of more than "
                    f"{MAX_VALUE} characters; write fewer and shorter ones."
                )
        longest = len(template) + sum(max(map(len, values), default=0) for values in spec.parameters.values())
        if longest > MAX_ACTION or len(spec.verification_code) > MAX_CODE:
            raise ScriptRule.TOO_LARGE.broken(
                f"{name} with its longest values has more than {MAX_ACTION} characters, or its verification_code "
                f"more than {MAX_CODE}; write shorter ones."
            )
    total = sum(len(values) for spec in script.available_actions.values() for values in spec.parameters.values())
    if total > MAX_VALUES_IN_ALL:
        raise ScriptRule.TOO_LARGE.broken(
            f"The actions have {total} valid values in all; write {MAX_VALUES_IN_ALL} at most."
        )


def _check_placeholders(template: str, spec: ActionSpec) -> None:
    names = PLACEHOLDER.findall(template)
    stray = set("{}") & set(PLACEHOLDER.sub("", template))
    if stray or "}{" in template or len(set(names)) < len(names) or set(names) != set(spec.parameters):
        raise ScriptRule.PLACEHOLDERS.broken(
            f"The placeholders of {quoted(template)} are {quoted(names)} and its parameters are "
            f"{quoted(list(spec.parameters))}; they must be the same, each once, with text between them and no "
            "other braces.",
        )
    for name, values in spec.parameters.items():
        if not values or any(not value.strip() for value in values):
            where = f"Parameter {quoted(name)} of {quoted(template)}"
            raise ScriptRule.NO_VALUES.broken(f"{where} has no valid value or an empty one; list its values.")


def _check_texts(script: Script) -> None:
    values = chain(*(chain(*spec.parameters.values()) for spec in script.available_actions.values()))
    commands = list(dict.fromkeys([*script.available_actions, *values]))
    prose = [script.goal, *script.completion_conditions]
    prose += [spec.description for spec in script.available_actions.values()]
    shared_rules.check_hidden("The script", "\n".join([*check_values(script.environment), *commands, *prose]))
    for text in commands:
        shared_rules.check_mixed("The script", text)
    _check_no_lookalikes(commands)
    shared_rules.check_words("The script", "\n".join([*prose, *commands]))
    for text in commands:
        shared_rules.check_one_line("The script", text)
    for text in [*prose, *commands]:
        shared_rules.check_reply_format("The script", text)
    shared_rules.check_writing("The goal", script.goal, own_writing([*commands, *prose[1:]]))


def _check_no_lookalikes(commands: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for text in commands:
        plain = PLACEHOLDER.sub("{}", text)  # a placeholder's name is no part of a command
        first = seen.setdefault(skeleton(plain), plain)
        if first != plain:
            raise SharedRule.LOOKALIKE.broken(
                f"{quoted(first)} and {quoted(plain)} ({ascii(plain)[:120]}) look alike but have other characters; "
                "write the same name with the same characters, and other names so that they look different."
            )


def _check_code(template: str, spec: ActionSpec) -> None:
    try:
        linear_regex(spec.verification_code)
    except ValueError as error:
        of, reason = f"The verification_code of {quoted(template)}", str(error)
        if _NONLINEAR.search(reason):
            message = f"{of} uses lookaround, a backreference or an atomic group ({quoted(reason)}); write it without."
            raise ScriptRule.NONLINEAR_REGEX.broken(message) from None
        message = f"{of} is no valid RE2 regular expression ({quoted(reason)}); fix it."
        raise ScriptRule.INVALID_REGEX.broken(message) from None


def _check_commands(script: Script) -> None:
    """Whether each action matches its own code and no other action; the work is bounded before it begins."""
    commands = script.actions.commands
    filled = [_filled(command, script.available_actions[command.template]) for command in commands]
    _check_work(commands, filled)
    for command, texts in zip(commands, filled, strict=True):
        code = script.available_actions[command.template].verification_code
        _check_own_strings(command, code, texts, commands)
    _check_codes_apart(commands, filled)


def _check_work(commands: Sequence[Command], filled: Sequence[Sequence[str]]) -> None:
    strings = comparisons = steps = 0
    for command, texts in zip(commands, filled, strict=True):
        longest = sum(map(len, command.literals)) + sum(map(max, command.lengths))
        if command.code.programsize * longest > MAX_STEPS_OF_A_MATCH:
            raise ScriptRule.TOO_LARGE.broken(
                f"The verification_code of {quoted(command.template)} is too large a program for its actions; write a "
                "simpler one, without large counted repetitions."
            )
        strings += len(texts)
        comparisons += 1 + sum(map(len, command.lengths))
        steps += command.code.programsize * sum(map(len, texts))
    if strings * comparisons > MAX_COMPARISONS or steps > MAX_MATCHING_STEPS:
        raise ScriptRule.TOO_LARGE.broken(
            "The actions have too many values, or too large verification codes, to be compared with each other; write "
            "fewer actions and values, and simpler codes."
        )


def _check_own_strings(command: Command, code: str, texts: Sequence[str], commands: Sequence[Command]) -> None:
    name = quoted(command.template)
    for text in texts:
        if not command.is_filled_as(text):
            raise ScriptRule.TOO_LARGE.broken(
                f"{quoted(text)} can be divided between the placeholders of {name} in too many ways; word the template "
                "so that its values stand apart."
            )
        if command.code.fullmatch(text.encode()) is None:
            raise ScriptRule.ACTION_MISMATCH.broken(
                f"The verification_code {quoted(code)} of {name} does not match {quoted(text)}, which is the template "
                "with valid values; correct the code or the values."
            )
        other = next((other for other in commands if other is not command and other.matches(text)), None)
        if other is not None:
            message = (
                f"{quoted(text)} is both {name} and {quoted(other.template)}; word one of the templates differently."
            )
            raise ScriptRule.AMBIGUOUS_ACTIONS.broken(message)


def _check_codes_apart(commands: Sequence[Command], filled: Sequence[Sequence[str]]) -> None:
    """Whether no code takes another action's strings with valid values.

    The first string of every action comes first, then the second ones; where the codes would have too much to do, the
    last strings are left out.
    """
    steps_a_character = sum(command.code.programsize for command in commands)
    steps = readings = 0
    for texts in zip_longest(*filled):
        for command, text in zip(commands, texts, strict=True):
            steps += steps_a_character * len(text or "")
            for other in commands:
                if text is None or other is command or not other.accepts(text):
                    continue
                readings += 1
                if steps > MAX_MATCHING_STEPS or readings > MAX_READINGS_OF_CODES:
                    return
                if other.takes(text):
                    own, name = quoted(command.template), quoted(other.template)
                    raise ScriptRule.AMBIGUOUS_ACTIONS.broken(
                        f"{quoted(text)} is {own}, and the verification_code of {name} accepts it too, with valid "
                        f"values of {name}; write a code that only its own action matches."
                    )


def _filled(command: Command, spec: ActionSpec) -> list[str]:
    """The command with all values where that is few; else with first values and one parameter at each of its others."""
    values = [spec.parameters[name] for name in command.names]
    choices: Iterable[Sequence[str]] = product(*values)
    if prod(map(len, values)) > MAX_COMBINATIONS:
        first = [known[0] for known in values]
        others = ((place, value) for place, known in enumerate(values) for value in known[1:])
        choices = [first, *([*first[:place], value, *first[place + 1 :]] for place, value in others)]
    return ["".join(chain.from_iterable(zip(command.literals, [*chosen, ""], strict=True))) for chosen in choices]


def _check_values_exist(script: Script) -> None:
    names = Names(check_values(script.environment))
    known: set[str] = set()
    for template, spec in script.available_actions.items():
        for parameter, values in spec.parameters.items():
            for value in values:
                if value not in known and not names.hold(value):
                    raise ScriptRule.UNKNOWN_VALUE.broken(
                        f"Value {quoted(value)} of parameter {quoted(parameter)} in {quoted(template)} names nothing "
                        "in the environment; put it into the environment by the same words, or remove the value.",
                    )
                known.add(value)


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
