"""The forecast of what a data set will cost, from a pilot of some of its personas."""

from collections.abc import Callable, Sequence

from prefect import get_run_logger

from agentrefine.errors import UserError
from agentrefine.game.personas import Persona
from agentrefine.game.verdict import Attempt
from agentrefine.llm.completion import Teacher
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.synthesis.accounts import Account, persona_accounts
from agentrefine.synthesis.first_answers import synthesise_shard
from agentrefine.synthesis.forecast import Forecast, forecast, nothing_kept, pilot_personas
from agentrefine.synthesis.refinement import Refined, refine_shard
from tasks.synthesis import personas
from tasks.teaching import access_to, run_shard
from tasks.tracking.artifacts import show_forecast


def log_forecast(params: Params) -> float:
    """Run the pilot, if one is asked for, and log what all personas will cost. Its answers are kept for the run.

    Returns:
        What the pilot's calls after its first games have cost, in US dollars: synthesis does not make them again.

    Raises:
        UserError: a teacher that cannot be reached, a pilot that kept nothing, or `teacher.max_cost` spent.
    """
    count = sum(1 for _ in personas(params))
    if not 0 < params.teacher.pilot_personas < count:
        return 0.0
    found, later = run_pilot(params, count)
    logger = get_run_logger()
    logger.info(found.sentence())
    limit = params.teacher.max_cost
    if limit is not None and found.cost is not None and found.cost.value > limit:
        logger.warning("teacher.max_cost is $%.2f: the run will probably stop before it has asked for all", limit)
    return later


def print_forecast(params: Params) -> None:
    """Print what all personas will cost; the pilot's calls are paid for and kept, and the run does not make them again.

    Raises:
        UserError: as `log_forecast`, or a bad personas file, or too few personas for the pilot.
    """
    count = sum(1 for _ in personas(params))
    pilot = params.teacher.pilot_personas
    if not 0 < pilot <= count:
        raise UserError(
            "bad_value",
            f"teacher.pilot_personas is {pilot}, and there are {count} personas; set it to a few of them, such as 8.",
            key="teacher.pilot_personas",
            value=pilot,
            personas=count,
        )
    print(run_pilot(params, count)[0].sentence())


def run_pilot(params: Params, count: int) -> tuple[Forecast, float]:
    """The forecast for `count` personas, and what the pilot's calls after its first games have cost.

    Raises:
        UserError: the pilot kept no game: the rest would be wasted.
    """
    prices = load_prices(params.teacher.prices)
    # A batch takes up to a day; the pilot's calls go out one by one; the rest counts at the price of batches.
    batch = params.teacher.transport == "batch"
    one_by_one = params.teacher.model_copy(update={"transport": "chat", "processes": 1})
    pilot = pilot_personas(personas(params), params.teacher.pilot_personas)
    samples = [(persona, number) for persona in pilot for number in range(params.synthesis.samples_per_persona)]
    with access_to(one_by_one) as access:
        ended = run_shard.with_options(name="pilot", retries=0)(_play, samples, params, access)
    refined = [sample for _, sample in ended]
    problem = nothing_kept(refined, params.teacher.pilot_personas)
    if problem:
        raise UserError("pilot_kept_nothing", problem, personas=params.teacher.pilot_personas)
    accounts = [account for account, _ in persona_accounts(refined, prices, batch=batch)]
    later = Account(prices)
    for first, sample in ended:
        later.add_all(sample.attempts[len(first) :])
    whole = Account(prices)
    whole.add_all(attempt for sample in refined for attempt in sample.attempts)
    found = forecast(accounts, count, whole.cost)
    show_forecast(found)
    return found, later.cost or 0.0


async def _play(
    samples: Sequence[tuple[Persona, int]], teacher: Teacher, params: Params, on_done: Callable[[], None]
) -> list[tuple[list[Attempt], Refined]]:
    """The first answers and the end of every sample."""
    first = await synthesise_shard(samples, teacher, params, on_done)
    return list(zip(first, await refine_shard(first, teacher, params), strict=True))
