"""The rules for games, and the verdicts on a teacher's answers (paper, section 3.1 and algorithm 1).

A game is judged turn by turn, then as a whole; the first finding counts. The rules for the texts of a turn are those of
`shared_rules`. The DM's thoughts are not shown to the player, but they go back to the teacher, so they are judged too.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from agentrefine.errors import UserError
from agentrefine.game.actions import plain
from agentrefine.game.script import Script
from agentrefine.game.text import hidden_character, is_free_of_others
from agentrefine.game.trajectory import DMTurn, PlayerTurn, Turn, error_refine_turns, steps
from agentrefine.game.verdict import Attempt, Problem, Rule, RuleBrokenError, Verdict, quoted
from agentrefine.llm.completion import NO_ANSWER
from agentrefine.params import VerificationParams
from agentrefine.verification import shared_rules
from agentrefine.verification.reading import AnswerRule, TurnsFinding, parse_turns
from agentrefine.verification.script_rules import ScriptRule, verify_script
from agentrefine.verification.shared_rules import SharedRule

_QUOTED_KEY = re.compile(r"""["']([^"'\n]{1,100})["']\s*:""")


class TrajectoryRule(Rule):
    """A rule that a game can break: the last three as a whole, the others in a turn."""

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
    TOO_MANY_TURNS = "too_many_turns", "the game is longer than allowed"
    UNFINISHED = "unfinished", "the last turn does not complete the task"
    TOO_FEW_REFINEMENTS = "too_few_refinements", "too few mistakes are corrected"


RULES: tuple[Rule, ...] = (*AnswerRule, *SharedRule, *ScriptRule, *TrajectoryRule)
"""All rules. The paper's five are `not_json`, `turn_keys`, `unflagged_error`, `unfinished` and `too_few_refinements`,
together with `action_mismatch` for scripts; the others are ours.
"""


def verify_attempts(attempts: Iterable[Attempt], params: VerificationParams) -> Iterator[Verdict]:
    """Judge the first answers of every sample, one verdict each, in their order.

    The attempts of one sample follow each other, its script before its trajectory.

    Raises:
        UserError: a trajectory does not follow the sound script that it was written for.
    """
    script: Script | None = None
    script_of: tuple[str, int, int | None] | None = None
    for attempt in attempts:
        if attempt.kind == "script":
            script, problem = verify_script(attempt.text)
            script_of = (attempt.persona_id, attempt.sample, attempt.call)
            yield verdict(attempt, problem, turns_kept=0)
        elif script is None or script_of != (attempt.persona_id, attempt.sample, attempt.script_call):
            message = (
                f"attempt {attempt.id} is a trajectory, but the sound script of its sample (persona "
                f"{attempt.persona_id}, sample {attempt.sample}, call {attempt.script_call}) does not stand before it; "
                "run the synthesis stage again."
            )
            raise UserError("stage_file_broken", message, attempt=attempt.id, stage="synthesis")
        else:
            kept, problem = verify_trajectory(script, attempt.text, params)
            yield verdict(attempt, problem, turns_kept=len(kept))


def no_answer(attempt: Attempt) -> Problem | None:
    """The problem of a call that the endpoint did not answer; None of one that it did."""
    if attempt.finish_reason not in NO_ANSWER:
        return None
    return Problem(AnswerRule.NO_ANSWER, f"The call is {attempt.finish_reason}: the endpoint gave no answer to it.")


def verdict(attempt: Attempt, problem: Problem | None, turns_kept: int) -> Verdict:
    """A finding on an attempt as a record; that the attempt is no answer comes before what was found in it."""
    problem = no_answer(attempt) or problem
    return Verdict(
        attempt_id=attempt.id,
        persona_id=attempt.persona_id,
        sample=attempt.sample,
        call=attempt.call,
        passed=problem is None,
        rule=problem.rule.value if problem else "",
        turn=problem.turn if problem else None,
        message=problem.message if problem else "",
        turns_kept=turns_kept,
    )


def verify_trajectory(script: Script, text: str, params: VerificationParams, kept: Sequence[Turn] = ()) -> TurnsFinding:
    """Judge the game in an answer, or the game that an answer continues after the `kept` turns, as `judge`.

    An answer that repeats the kept turns unchanged before its own counts as if it had not.
    """
    turns, problem = parse_turns(text)
    kept = list(kept)
    repeated = len(kept) if kept and turns[: len(kept)] == kept else 0
    if problem and problem.turn is not None:
        problem = problem._replace(turn=problem.turn + len(kept) - repeated)
    return judge(script, kept + turns[repeated:], params, problem)


def judge(
    script: Script, turns: Sequence[Turn], params: VerificationParams, reading: Problem | None = None
) -> TurnsFinding:
    """Judge a game's turns whose keys are sound; `reading` says why the turns after these could not be read, if so.

    The finding has all turns when the game passed. Otherwise it has none, or turns that break no rule of a single turn,
    end with a DM turn that does not complete the task, and leave room for two more: the teacher continues with a player
    turn.
    """
    suspicious = has_suspicious_texts(script, turns)
    for position, turn in enumerate(turns):
        try:
            _check_place(turns, position, params)
            if suspicious:
                check_turn_texts(script, turn, position + 1)
            if isinstance(turn, DMTurn):
                if position == 0:
                    _check_first_turn(turn)
                else:
                    _check_answer(script, turns, position)
                _check_no_leak(script, turn)
        except RuleBrokenError as error:
            fault = error.problem.turn or position + 1
            return TurnsFinding(_sound_prefix(turns, fault - 1, params), error.problem._replace(turn=fault))
    problem = reading or _whole_game_problem(turns, params)
    if problem is None:
        return TurnsFinding(list(turns), None)
    start_again = problem.rule in (TrajectoryRule.TOO_FEW_REFINEMENTS, TrajectoryRule.TOO_MANY_TURNS)
    return TurnsFinding([] if start_again else _sound_prefix(turns, len(turns), params), problem)


def _sound_prefix(turns: Sequence[Turn], end: int, params: VerificationParams) -> list[Turn]:
    """The first `end` turns, down to a DM turn that leaves the player something to do and room to do it."""
    if end % 2 == 0:
        end -= 1
    if end < 1 or end + 2 > params.max_turns:
        return []
    last = turns[end - 1]
    if isinstance(last, DMTurn) and last.task_completed:
        end -= 2
    return list(turns[:end])


def has_suspicious_texts(script: Script, turns: Sequence[Turn]) -> bool:
    """Whether a turn's texts could break a rule: False only when `check_turn_texts` finds nothing in any turn.

    One search of a whole game takes as long as that of one turn, and most games hold nothing suspicious.
    """
    actions = "".join(turn.action for turn in turns if isinstance(turn, PlayerTurn))
    text = "\n".join([*(turn.thought for turn in turns), *map(_shown, turns)])
    return (
        not actions.isascii()
        or "\n" in actions
        or hidden_character(text) is not None
        or shared_rules.first_phrase("words_to_a_model", text) is not None
        or shared_rules.reply_line(text) is not None
        or not is_free_of_others(text, script.writing)
    )


def check_turn_texts(script: Script, turn: Turn, number: int) -> None:
    """The rules for texts on one turn.

    Raises:
        RuleBrokenError: a text of the turn breaks one.
    """
    where, text = f"Turn {number}", f"{turn.thought}\n{_shown(turn)}"
    shared_rules.check_hidden(where, text)
    if isinstance(turn, PlayerTurn):
        shared_rules.check_mixed(where, turn.action)
        shared_rules.check_one_line(where, turn.action)
    shared_rules.check_words(where, text)
    shared_rules.check_reply_format(where, text if isinstance(turn, PlayerTurn) else turn.observation)
    prose = turn.thought if isinstance(turn, PlayerTurn) else turn.observation
    shared_rules.check_writing(where, prose, script.writing)


def _shown(turn: Turn) -> str:
    return turn.action if isinstance(turn, PlayerTurn) else turn.observation


def _check_place(turns: Sequence[Turn], position: int, params: VerificationParams) -> None:
    """Whether this is the turn that must come now."""
    turn, number = turns[position], position + 1
    if number > params.max_turns:
        message = f"The game has more than {params.max_turns} turns; write it again, with a shorter way to the goal."
        raise TrajectoryRule.TOO_MANY_TURNS.broken(message)
    role = "Player" if position % 2 else "DM"
    if turn.role != role:
        message = f"Turn {number} is the {turn.role}'s and must be the {role}'s; they take turns."
        raise TrajectoryRule.ROLE_ORDER.broken(message)
    if turn.turn != number:
        message = f'Turn {number} has "turn": {quoted(turn.turn)}; number the turns one by one.'
        raise TrajectoryRule.TURN_NUMBER.broken(message)
    before = turns[position - 1]
    if isinstance(turn, PlayerTurn) and isinstance(before, DMTurn) and before.task_completed:
        message = f"Turn {number - 1} says task_completed, but the game goes on; set it on the last turn only."
        raise TrajectoryRule.EARLY_COMPLETION.broken(message, number - 1)


def _check_first_turn(turn: DMTurn) -> None:
    if turn.task_completed:
        raise TrajectoryRule.COMPLETED_AT_START.broken(
            "Turn 1 says task_completed before the player has acted; begin with a state in which the goal is not true."
        )
    if turn.error:
        message = "Turn 1 flags an error, but nobody has acted yet; set its flags to false."
        raise TrajectoryRule.FIRST_TURN_JUDGED.broken(message)


def _check_answer(script: Script, turns: Sequence[Turn], position: int) -> None:
    """The DM's judgement of the player's last action. A mistake may be of several kinds at once."""
    player, answer = next(steps(turns[position - 1 : position + 1]))
    action, played, number = quoted(player.action), position, position + 1
    template = script.actions.matching(player.action)
    resembled = script.actions.resembling(player.action) if template is None else None
    if resembled is not None:
        raise SharedRule.LOOKALIKE.broken(
            f"The action of turn {played}, {action}, looks like a valid use of {quoted(resembled)} but has other "
            "characters; write the same ones.",
            played,
        )
    if template is None and not answer.parameter_error:
        raise TrajectoryRule.UNFLAGGED_ERROR.broken(
            f"The action of turn {played}, {action}, is none of the available actions with valid values, but turn "
            f"{number} does not say parameter_error; use an available action letter for letter, or flag the mistake.",
            played,
        )
    if template is not None and answer.parameter_error:
        raise TrajectoryRule.FALSE_ALARM.broken(
            f"Turn {number} says parameter_error, but the action of turn {played}, {action}, is a valid use of "
            f"{quoted(template)}; judge it by logic_error or place_error, or let it succeed."
        )
    if answer.error and answer.task_completed:
        message = f"Turn {number} flags an error and says task_completed; a mistake changes nothing in the environment."
        raise TrajectoryRule.COMPLETED_ON_ERROR.broken(message)
    if position >= 3 and not answer.error:
        failed, error = next(steps(turns[position - 3 : position - 1]))
        if error.error and _is_repeated(script, failed.action, player.action):
            message = f"Turn {played} repeats {action}, which has just failed, and now it works; correct a mistake by a"
            raise TrajectoryRule.REPEATED_MISTAKE.broken(f"{message} different action.", played)


def _is_repeated(script: Script, failed: str, action: str) -> bool:
    """Whether an action is one that failed: letter for letter, or up to case and spaces where it was valid before.

    Where it was not valid, case and spaces may be what is corrected.
    """
    return failed == action or (plain(failed) == plain(action) and script.actions.matching(failed) is not None)


def _check_no_leak(script: Script, turn: DMTurn) -> None:
    """An observation quotes the environment's JSON when a quoted key of it stands before a colon."""
    if ":" not in turn.observation:
        return
    keys = {key.strip().casefold() for key in _QUOTED_KEY.findall(turn.observation)}
    leaked = sorted(keys & script.environment_keys) if keys else []
    if leaked:
        raise TrajectoryRule.ENVIRONMENT_LEAK.broken(
            f"The observation of turn {turn.turn} quotes the JSON of the environment (key {quoted(leaked[0])}); "
            "describe in plain sentences what the player can see."
        )


def _whole_game_problem(turns: Sequence[Turn], params: VerificationParams) -> Problem | None:
    last, corrected = turns[-1], error_refine_turns(turns)
    is_completed = isinstance(last, DMTurn) and last.task_completed
    if not is_completed and len(turns) + 2 > params.max_turns:
        message = f"After {len(turns)} turns the task is not completed; {params.max_turns} turns are the most."
        return Problem(
            TrajectoryRule.TOO_MANY_TURNS, f"{message} Write the game again, with a shorter way to the goal."
        )
    if not is_completed:
        message = f"The game ends after turn {len(turns)} without completing the task; go on until a last DM turn says"
        return Problem(TrajectoryRule.UNFINISHED, f"{message} task_completed.")
    if corrected < params.min_error_refine_turns:
        message = (
            f"The game has {corrected} mistakes that the DM flags and the player corrects on the next turn; at least"
        )
        message = f"{message} {params.min_error_refine_turns} are needed. Write the whole game again."
        return Problem(TrajectoryRule.TOO_FEW_REFINEMENTS, message)
    return None
