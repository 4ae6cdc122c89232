"""The rules for the texts of scripts and turns: what a model would be shown, or what is compared with it.

The environment is never shown, so it may hold any words in any writing; only hidden characters are refused there,
because values and leaks are compared with it. The DM's thoughts are not shown either; they go back to the teacher, and
are judged by the rules for all texts.
"""

from collections.abc import Sequence
from itertools import chain

from agentrefine.game.actions import PLACEHOLDER
from agentrefine.game.characters import (
    foreign_writing,
    hidden_character,
    is_free_of_others,
    mixed_word,
    named,
    own_writing,
    skeleton,
)
from agentrefine.game.script import Script
from agentrefine.game.trajectory import PlayerTurn, Turn
from agentrefine.game.verdict import Rule, RuleBrokenError, quoted
from agentrefine.verification.phrases import reply_line, words_to_a_model
from agentrefine.verification.reading import check_values


def check_script_texts(script: Script) -> None:
    """The rules for texts on a script.

    Raises:
        RuleBrokenError: a text breaks one; the first in the order of `Rule` counts.
    """
    environment = check_values(script.environment)
    commands = _commands(script)
    prose = [script.goal, *script.completion_conditions]
    prose += [spec.description for spec in script.available_actions.values()]
    _check_hidden("The script", "\n".join([*environment, *commands, *prose]))
    for text in commands:
        _check_mixed("The script", text)
    _check_no_lookalikes(script)
    shown = [*prose, *commands]
    _check_words("The script", "\n".join(shown))
    for text in commands:
        _check_one_line("The script", text)
    for text in shown:
        _check_reply_format("The script", text)
    _check_writing("The goal", script.goal, own_writing([*commands, *prose[1:]]))


def has_suspicious_texts(script: Script, turns: Sequence[Turn]) -> bool:
    """Whether a turn's texts could break a rule: False only when `check_turn_texts` finds nothing in any turn.

    One search of a whole game takes as long as that of one turn, and most games hold nothing suspicious.
    """
    actions = "".join(turn.action for turn in turns if isinstance(turn, PlayerTurn))
    thoughts = "\n".join(turn.thought for turn in turns)
    shown = "\n".join(turn.action if isinstance(turn, PlayerTurn) else turn.observation for turn in turns)
    text = f"{thoughts}\n{shown}"
    return (
        not actions.isascii()
        or "\n" in actions
        or hidden_character(text) is not None
        or words_to_a_model(text) is not None
        or reply_line(text) is not None
        or not is_free_of_others(text, script.writing)
    )


def check_turn_texts(script: Script, turn: Turn, number: int) -> None:
    """The rules for texts on one turn.

    Raises:
        RuleBrokenError: a text of the turn breaks one; names the turn.
    """
    where = f"Turn {number}"
    text = f"{turn.thought}\n{turn.action if isinstance(turn, PlayerTurn) else turn.observation}"
    try:
        _check_hidden(where, text)
        if isinstance(turn, PlayerTurn):
            _check_mixed(where, turn.action)
            _check_one_line(where, turn.action)
        _check_words(where, text)
        _check_reply_format(where, text if isinstance(turn, PlayerTurn) else turn.observation)
        _check_writing(where, turn.thought if isinstance(turn, PlayerTurn) else turn.observation, script.writing)
    except RuleBrokenError as error:
        raise RuleBrokenError(error.problem.rule, error.problem.message, number) from error


def _commands(script: Script) -> list[str]:
    """The templates and the values, each once."""
    values = (known for spec in script.available_actions.values() for known in spec.parameters.values())
    return list(dict.fromkeys([*script.available_actions, *chain(*values)]))


def _check_hidden(where: str, text: str) -> None:
    character = hidden_character(text)
    if character is not None:
        found = f"the invisible or control character {named(character)}"
        raise RuleBrokenError(Rule.HIDDEN_CHARACTER, f"{where} holds {found}; write visible characters only.")


def _check_mixed(where: str, text: str) -> None:
    word = mixed_word(text)
    if word is not None:
        others = ", ".join(named(letter) for letter in dict.fromkeys(word) if not letter.isascii())
        found = f"the word {quoted(word)} ({quoted(others)})"
        raise RuleBrokenError(Rule.MIXED_WRITING, f"{where} mixes alphabets within {found}; write it in one alphabet.")


def _check_no_lookalikes(script: Script) -> None:
    seen: dict[str, str] = {}
    for text in _commands(script):
        plain = PLACEHOLDER.sub("{}", text)  # a placeholder's name is no part of a command
        first = seen.setdefault(skeleton(plain), plain)
        if first != plain:
            raise RuleBrokenError(
                Rule.LOOKALIKE,
                f"{quoted(first)} and {quoted(plain)} ({ascii(plain)[:120]}) look alike but have other characters; "
                "write the same name with the same characters, and other names so that they look different.",
            )


def _check_words(where: str, text: str) -> None:
    words = words_to_a_model(text)
    if words is not None:
        found = f"{quoted(words)}, which speaks to a language model or marks a part of a chat"
        raise RuleBrokenError(Rule.WORDS_TO_MODEL, f"{where} holds {found}; write only what belongs to the game.")


def _check_one_line(where: str, command: str) -> None:
    if "\n" in command:
        message = f"{where} holds a command of several lines, {quoted(command)}; write it in one."
        raise RuleBrokenError(Rule.REPLY_FORMAT, message)


def _check_reply_format(where: str, text: str) -> None:
    line = reply_line(text)
    if line is not None:
        found = f"a line that begins with {quoted(line)}, as a reply of the player does"
        raise RuleBrokenError(Rule.REPLY_FORMAT, f"{where} holds {found}; write the text without it.")


def _check_writing(where: str, text: str, own: frozenset[str]) -> None:
    system = foreign_writing(text, own)
    if system is not None:
        found = f"{system} letters, the rest of the script in {' and '.join(sorted(own))}"
        message = f"{where} is written in {found}; write script and game in one language."
        raise RuleBrokenError(Rule.OTHER_WRITING, message)
