"""Verdicts: the rules by name, and what they say of an answer; no LLM judges (paper, section 3.1)."""

from enum import StrEnum
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict


class Rule(StrEnum):
    """A rule that an answer can break: its name in every report, and what breaks it.

    The paper's five are `not_json`, `turn_keys`, `unflagged_error`, `unfinished` and `too_few_refinements`, together
    with `action_mismatch` for scripts; the others are ours.
    """

    meaning: str

    def __new__(cls, name: str, meaning: str) -> Self:
        """A member whose value is its name in reports."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        return member

    # any answer
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

    # texts of scripts and of turns
    HIDDEN_CHARACTER = "hidden_character", "a text holds an invisible, direction or control character"
    MIXED_WRITING = "mixed_writing", "a word of a command mixes letters of alphabets that look alike"
    LOOKALIKE = "lookalike", "a command or value differs from another one only by characters that look alike"
    WORDS_TO_MODEL = "words_to_model", "a text speaks to a language model or holds the markers of a chat"
    REPLY_FORMAT = "reply_format", "a text holds a line that reads as a part of an agent's reply"
    OTHER_WRITING = "other_writing", "a text is in another writing system than the rest of its script"

    # scripts
    SCRIPT_KEYS = "script_keys", "a key of the script is missing or has a value of the wrong type"
    TOO_LARGE = "too_large", "the script has more or longer actions, values or codes than a player can use"
    PLACEHOLDERS = "placeholders", "a template's placeholders and its parameters are not the same"
    NO_VALUES = "no_values", "a parameter has no value, or an empty one"
    NONLINEAR_REGEX = "nonlinear_regex", "a verification code needs lookaround or backreferences"
    INVALID_REGEX = "invalid_regex", "a verification code is not a regular expression"
    ACTION_MISMATCH = "action_mismatch", "a template filled with its own values does not match its verification code"
    AMBIGUOUS_ACTIONS = "ambiguous_actions", "two actions match the same command, by their templates or by their codes"
    UNKNOWN_VALUE = "unknown_value", "a valid value names nothing in the environment, where whole words count"

    # turns
    TURN_KEYS = "turn_keys", "a turn's keys are not the required ones, or a value has the wrong type"
    TURN_NUMBER = "turn_number", "the turns are not numbered one after the other"
    ROLE_ORDER = "role_order", "DM and player do not take turns, beginning with the DM"
    FIRST_TURN_JUDGED = "first_turn_judged", "the first DM turn flags an error although nobody has acted"
    COMPLETED_AT_START = "completed_at_start", "the task is completed before the player has acted"
    UNFLAGGED_ERROR = "unflagged_error", "an action that is not valid is not called a parameter error"
    FALSE_ALARM = "false_alarm", "a valid action is called a parameter error"
    COMPLETED_ON_ERROR = "completed_on_error", "a mistake completes the task"
    EARLY_COMPLETION = "early_completion", "the task is completed and the game continues"
    REPEATED_MISTAKE = "repeated_mistake", "a correction repeats the failed action"
    ENVIRONMENT_LEAK = "environment_leak", "an observation quotes the JSON of the hidden environment"

    # whole games
    TOO_MANY_TURNS = "too_many_turns", "the game is longer than allowed"
    UNFINISHED = "unfinished", "the last turn does not complete the task"
    TOO_FEW_REFINEMENTS = "too_few_refinements", "too few mistakes are corrected"


class Problem(NamedTuple):
    """What the rules found.

    Attributes:
        rule: the first rule broken.
        message: feedback that the teacher can act on: where, what, what to change.
        turn: the turn at fault, from 1; None for scripts and for findings on the whole.
    """

    rule: Rule
    message: str
    turn: int | None = None


class Verdict(BaseModel):
    """A line of data/verification/verdicts.jsonl: what the rules say of one answer of the teacher.

    Example: `{"attempt_id": "9f...", "persona_id": "p1", "sample": 0, "call": 2, "passed": false, "rule": "unfinished",
    "turn": null, "message": "The game ends ...", "turns_kept": 7}`

    Attributes:
        attempt_id: the answer judged (`Attempt.id`).
        persona_id, sample, call: whose it is.
        passed: sound and complete.
        rule: the name of the first rule that it broke; empty when it passed.
        turn: the turn at fault, from 1; None for scripts and for findings on the whole.
        message: feedback that the teacher can act on; empty when it passed.
        turns_kept: how many leading turns are sound and stay (0: start again).
    """

    model_config = ConfigDict(frozen=True)

    attempt_id: str
    persona_id: str
    sample: int
    call: int
    passed: bool
    rule: str
    turn: int | None
    message: str
    turns_kept: int


class RuleBrokenError(Exception):
    """An answer breaks a rule."""

    def __init__(self, rule: Rule, message: str, turn: int | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(rule, message, turn)


def quoted(text: object, max_characters: int = 120) -> str:
    """A value as a message shows it: on one line, shortened."""
    shown = repr(text)
    return shown if len(shown) <= max_characters else shown[:max_characters] + "..."


def legible(sentence: str, max_characters: int = 500) -> str:
    """A sentence with an answer's own words in it as a message shows it: on one line, its middle left out when long."""
    if len(sentence) > max_characters:
        sentence = f"{sentence[: max_characters // 2]}...{sentence[-max_characters // 2 :]}"
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in sentence)
