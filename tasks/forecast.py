"""The pilot: some of the personas to the end, which shows what all will cost and whether enough of it would be kept."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prefect import get_run_logger

from agentrefine.errors import UserError
from agentrefine.game.personas import Persona
from agentrefine.game.verdict import Attempt
from agentrefine.llm.completion import Teacher
from agentrefine.llm.journal import SECONDS, TIMED
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.synthesis.accounts import Account, persona_accounts
from agentrefine.synthesis.client import run_numbers
from agentrefine.synthesis.first_answers import synthesise_shard
from agentrefine.synthesis.forecast import Forecast, Pace, Shortfall, forecast, pilot_personas, shortfall
from agentrefine.synthesis.repair import Repaired, repair_shard
from tasks.synthesis import personas
from tasks.teaching import access_to, run_shard
from tasks.tracking.artifacts import show_forecast


class Pilot(NamedTuple):
    """What a pilot has shown.

    Attributes:
        forecast: for all personas.
        later: what its calls after its first games have cost, in US dollars: synthesis does not make them again.
        shortfall: what is wrong where it kept too few games.
    """

    forecast: Forecast
    later: float
    shortfall: Shortfall | None


def run_and_judge_pilot(params: Params) -> float:
    """Run the pilot, if one is asked for, and log what all personas will cost. Its answers are kept for the run.

    Returns:
        What the pilot's calls after its first games have cost, in US dollars: synthesis does not make them again.

    Raises:
        UserError: a teacher that cannot be reached, `teacher.max_cost` spent, or a pilot that kept nothing, or so
            little that the rest is not to be asked for.
    """
    count = sum(1 for _ in personas(params))
    if not 0 < params.teacher.pilot.personas < count:
        return 0.0
    pilot = run_pilot(params, count)
    logger = get_run_logger()
    logger.info(pilot.forecast.sentence())
    limit, cost = params.teacher.max_cost, pilot.forecast.cost
    if limit is not None and cost is not None and cost.value > limit:
        logger.warning("teacher.max_cost is $%.2f: the run will probably stop before it has asked for all", limit)
    if pilot.shortfall is not None:
        _decide(pilot.shortfall, params, count - pilot.forecast.pilot)
    return pilot.later


def _decide(found: Shortfall, params: Params, rest: int) -> None:
    """Stop after a pilot that kept too little, unless `teacher.pilot.on_low`, or the user when asked, says otherwise.

    Raises:
        UserError: the rest is not to be asked for.
    """
    pilot, key = params.teacher.pilot, "teacher.pilot.on_low"
    change = "change teacher.model or its settings"
    if not found.kept:
        remedy = f"{change}, or set teacher.pilot.personas to 0 to ask for all of them anyway"
        raise _stopped("pilot_kept_nothing", found, f"Nothing more is asked; {remedy}.", key="teacher.pilot.personas")
    least = f"teacher.pilot.min_kept_share is {pilot.min_kept_share:.0%}"
    if pilot.on_low == "continue":
        get_run_logger().warning("%s %s, and %s is continue.\n\n%s", found.sentences, least, key, found.answer)
        return
    if pilot.on_low == "stop":
        reason = f"{least}, and {key} is stop, so nothing more is asked; {change}, or set {key} to continue."
        raise _stopped("pilot_kept_little", found, reason, key=key)
    if not _someone_to_ask():
        reason = f"{least}, and there is no terminal to ask at, so nothing more is asked; {change}, or set {key} to "
        raise _stopped("pilot_kept_little", found, f"{reason}continue.", key=key)
    print(f"\n{found.sentences} {least}.\n\n{found.answer}\n")
    print(f"Ask for the other {rest:,} personas anyway? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("pilot_kept_little", f"Nothing more was asked; {change}.", key=key, kept=found.kept)


def _someone_to_ask() -> bool:
    """Whether this process may read from a terminal: a job in the background would be stopped when it does."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal of other processes, which stops none of this one's
        return True


def _stopped(code: str, found: Shortfall, reason: str, *, key: str) -> UserError:
    values = {"key": key, "kept": found.kept, "samples": found.samples}
    return UserError(code, f"{found.sentences} {reason}\n\n{found.answer}", **values)


def print_forecast(params: Params) -> None:
    """Print what all personas will cost; the pilot's calls are paid for and kept, and the run does not make them again.

    Where there are no more personas than the pilot is to have, all are asked.

    Raises:
        UserError: a bad personas file, no pilot, or a pilot that kept nothing.
    """
    count = sum(1 for _ in personas(params))
    if not count or not params.teacher.pilot.personas:
        key = "teacher.pilot.personas" if count else "personas.path"
        what = "is 0; set it to a few personas, such as 8" if count else "names a file without personas; correct it"
        raise UserError("bad_value", f"{key} {what}, from which the cost of all is forecast.", key=key)
    pilot = run_pilot(params, count)
    if pilot.shortfall is not None and not pilot.shortfall.kept:
        _decide(pilot.shortfall, params, count - pilot.forecast.pilot)
    print(pilot.forecast.sentence())
    if pilot.shortfall is not None:
        print(f"{pilot.shortfall.sentences}\n\n{pilot.shortfall.answer}")


def run_pilot(params: Params, count: int) -> Pilot:
    """Finish the games of some of the `count` personas, all of them where they are few."""
    prices = load_prices(params.teacher.prices)
    # A batch takes up to a day; the pilot's calls go out one by one; the rest counts at the price of batches.
    batch = params.teacher.transport == "batch"
    one_by_one = params.teacher.model_copy(update={"transport": "chat", "processes": 1})
    pilot = pilot_personas(personas(params), params.teacher.pilot.personas)
    samples = [(persona, number) for persona in pilot for number in range(params.synthesis.samples_per_persona)]
    with access_to(one_by_one) as access:
        ended = run_shard.with_options(name="pilot", retries=0)(_play, samples, params, access)
        with run_numbers(access.numbers, one_by_one) as numbers:
            each = numbers[SECONDS] / numbers[TIMED] if numbers[TIMED] else None
    refined = [sample for _, sample in ended]
    accounts = [account for account, _ in persona_accounts(refined, prices, batch=batch)]
    later = Account(prices)
    for first, sample in ended:
        later.add_all(sample.attempts[len(first) :])
    whole = Account(prices)
    whole.add_all(attempt for sample in refined for attempt in sample.attempts)
    pace = Pace.of(params.teacher, each, params.repair.call_budget)
    found = forecast(accounts, count, whole.cost, pace)
    show_forecast(found)
    return Pilot(found, later.cost or 0.0, shortfall(refined, len(pilot), params.teacher.pilot.min_kept_share))


async def _play(
    samples: Sequence[tuple[Persona, int]], teacher: Teacher, params: Params, on_done: Callable[[], None]
) -> list[tuple[list[Attempt], Repaired]]:
    """The first answers and the end of every sample."""
    first = await synthesise_shard(samples, teacher, params, on_done)
    return list(zip(first, await repair_shard(first, teacher, params), strict=True))
