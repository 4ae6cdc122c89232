"""The rules for games, and the verdicts on a teacher's answers (paper, section 3.1 and algorithm 1).

A game is judged turn by turn, then as a whole; the first finding counts.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from agentrefine.errors import UserError
from agentrefine.game.actions import plain
from agentrefine.game.attempt import Attempt
from agentrefine.game.script import Script
from agentrefine.game.trajectory import DMTurn, PlayerTurn, Turn, error_refine_turns, steps
from agentrefine.game.verdict import Problem, Rule, RuleBrokenError, Verdict, quoted
from agentrefine.llm.completion import NO_ANSWER
from agentrefine.params import VerificationParams
from agentrefine.verification.reading import parse_turns
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.text_rules import check_turn_texts, has_suspicious_texts

_QUOTED_KEY = re.compile(r"""["']([^"'\n]{1,100})["']\s*:""")


class TrajectoryFinding(NamedTuple):
    """What the rules say of a game.

    Attributes:
        kept: the leading turns that stay. All turns when the game passed. Otherwise nothing, or turns that break no
            rule of a single turn, end with a DM turn that does not complete the task, and leave room for two more:
            the teacher continues with a player turn.
        problem: the first rule broken; None when the game passed.
    """

    kept: list[Turn]
    problem: Problem | None


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
            problem = no_answer(attempt) or problem
            script_of = (attempt.persona_id, attempt.sample, attempt.call)
            yield verdict(attempt, problem, turns_kept=0)
        elif script is None or script_of != (attempt.persona_id, attempt.sample, attempt.script_call):
            raise UserError(
                "stage_file_broken",
                f"attempt {attempt.id} is a trajectory, but the sound script of its sample (persona "
                f"{attempt.persona_id}, sample {attempt.sample}, call {attempt.script_call}) does not stand before it; "
                "run the synthesis stage again.",
                attempt=attempt.id,
            )
        else:
            kept, problem = verify_trajectory(script, attempt.text, params)
            yield verdict(attempt, no_answer(attempt) or problem, turns_kept=len(kept))


def no_answer(attempt: Attempt) -> Problem | None:
    """The problem of a call that the endpoint did not answer; None of one that it did."""
    if attempt.finish_reason not in NO_ANSWER:
        return None
    return Problem(Rule.NO_ANSWER, f"The call is {attempt.finish_reason}: the endpoint gave no answer to it.")


def verdict(attempt: Attempt, problem: Problem | None, turns_kept: int) -> Verdict:
    """A finding on an attempt as a record."""
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


def verify_trajectory(
    script: Script, text: str, params: VerificationParams, kept: Sequence[Turn] = ()
) -> TrajectoryFinding:
    """Judge the game in an answer, or the game that an answer continues after the `kept` turns.

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
) -> TrajectoryFinding:
    """Judge a game's turns whose keys are sound; `reading` says why the turns after these could not be read, if so."""
    suspicious = has_suspicious_texts(script, turns)
    try:
        for position, turn in enumerate(turns):
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
        return TrajectoryFinding(_sound_prefix(turns, error.problem.turn, params), error.problem)
    problem = reading or _whole_game_problem(turns, params)
    if problem is None:
        return TrajectoryFinding(list(turns), None)
    again = problem.rule in (Rule.TOO_FEW_REFINEMENTS, Rule.TOO_MANY_TURNS)
    return TrajectoryFinding([] if again else _sound_prefix(turns, None, params), problem)


def _sound_prefix(turns: Sequence[Turn], fault: int | None, params: VerificationParams) -> list[Turn]:
    """The turns before turn `fault`, down to a DM turn that leaves the player something to do and room to do it."""
    end = len(turns) if fault is None else fault - 1
    if end % 2 == 0:
        end -= 1
    if end < 1 or end + 2 > params.max_turns:
        return []
    last = turns[end - 1]
    if isinstance(last, DMTurn) and last.task_completed:
        end -= 2
    return list(turns[:end])


def _check_place(turns: Sequence[Turn], position: int, params: VerificationParams) -> None:
    """Whether this is the turn that must come now."""
    turn, number = turns[position], position + 1
    if number > params.max_turns:
        message = f"The game has more than {params.max_turns} turns; write it again, with a shorter way to the goal."
        raise RuleBrokenError(Rule.TOO_MANY_TURNS, message, number)
    role = "Player" if position % 2 else "DM"
    if turn.role != role:
        message = f"Turn {number} is the {turn.role}'s and must be the {role}'s; they take turns."
        raise RuleBrokenError(Rule.ROLE_ORDER, message, number)
    if turn.turn != number:
        message = f'Turn {number} has "turn": {quoted(turn.turn)}; number the turns one by one.'
        raise RuleBrokenError(Rule.TURN_NUMBER, message, number)
    before = turns[position - 1]
    if isinstance(turn, PlayerTurn) and isinstance(before, DMTurn) and before.task_completed:
        message = f"Turn {number - 1} says task_completed, but the game goes on; set it on the last turn only."
        raise RuleBrokenError(Rule.EARLY_COMPLETION, message, number - 1)


def _check_first_turn(turn: DMTurn) -> None:
    if turn.task_completed:
        raise RuleBrokenError(
            Rule.COMPLETED_AT_START,
            "Turn 1 says task_completed before the player has acted; begin with a state in which the goal is not true.",
            1,
        )
    if turn.error:
        message = "Turn 1 flags an error, but nobody has acted yet; set its flags to false."
        raise RuleBrokenError(Rule.FIRST_TURN_JUDGED, message, 1)


def _check_answer(script: Script, turns: Sequence[Turn], position: int) -> None:
    """The DM's judgement of the player's last action. A mistake may be of several kinds at once."""
    player, answer = next(steps(turns[position - 1 : position + 1]))
    action, number = quoted(player.action), position + 1
    template = script.actions.matching(player.action)
    resembled = script.actions.resembling(player.action) if template is None else None
    if resembled is not None:
        raise RuleBrokenError(
            Rule.LOOKALIKE,
            f"The action of turn {number - 1}, {action}, looks like a valid use of {quoted(resembled)} but has other "
            "characters; write the same ones.",
            number - 1,
        )
    if template is None and not answer.parameter_error:
        raise RuleBrokenError(
            Rule.UNFLAGGED_ERROR,
            f"The action of turn {number - 1}, {action}, is none of the available actions with valid values, but turn "
            f"{number} does not say parameter_error; use an available action letter for letter, or flag the mistake.",
            number - 1,
        )
    if template is not None and answer.parameter_error:
        raise RuleBrokenError(
            Rule.FALSE_ALARM,
            f"Turn {number} says parameter_error, but the action of turn {number - 1}, {action}, is a valid use of "
            f"{quoted(template)}; judge it by logic_error or place_error, or let it succeed.",
            number,
        )
    if answer.error and answer.task_completed:
        message = f"Turn {number} flags an error and says task_completed; a mistake changes nothing in the environment."
        raise RuleBrokenError(Rule.COMPLETED_ON_ERROR, message, number)
    if position >= 3 and not answer.error:
        failed, error = next(steps(turns[position - 3 : position - 1]))
        if error.error and _is_repeated(script, failed.action, player.action):
            raise RuleBrokenError(
                Rule.REPEATED_MISTAKE,
                f"Turn {number - 1} repeats {action}, which has just failed, and now it works; correct a mistake by a "
                "different action.",
                number - 1,
            )


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
        raise RuleBrokenError(
            Rule.ENVIRONMENT_LEAK,
            f"The observation of turn {turn.turn} quotes the JSON of the environment (key {quoted(leaked[0])}); "
            "describe in plain sentences what the player can see.",
            turn.turn,
        )


def _whole_game_problem(turns: Sequence[Turn], params: VerificationParams) -> Problem | None:
    last = turns[-1]
    if not isinstance(last, DMTurn) or not last.task_completed:
        if len(turns) + 2 > params.max_turns:
            message = f"After {len(turns)} turns the task is not completed; {params.max_turns} turns are the most."
            return Problem(Rule.TOO_MANY_TURNS, f"{message} Write the game again, with a shorter way to the goal.")
        return Problem(
            Rule.UNFINISHED,
            f"The game ends after turn {len(turns)} without completing the task; go on until a last DM turn says "
            "task_completed.",
        )
    corrected = error_refine_turns(turns)
    if corrected < params.min_error_refine_turns:
        return Problem(
            Rule.TOO_FEW_REFINEMENTS,
            f"The game has {corrected} mistakes that the DM flags and the player corrects on the next turn; at least "
            f"{params.min_error_refine_turns} are needed. Write the whole game again.",
        )
    return None
