"""The forecast of what a data set will cost, from a pilot of some of its personas."""

from pathlib import Path

import uvloop
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from agentrefine.errors import UserError
from agentrefine.game.personas import load_personas
from agentrefine.game.verdict import Attempt
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.synthesis.accounts import Account, persona_accounts
from agentrefine.synthesis.first_answers import synthesise_shard
from agentrefine.synthesis.forecast import Forecast, forecast, nothing_kept, pilot_personas
from agentrefine.synthesis.refinement import Refined, refine_shard
from tasks.teaching import Access, access_to, open_teacher


def log_forecast(params: Params, personas: int) -> float:
    """Run the pilot, if one is asked for, and log what all personas will cost. Its answers are kept for the run.

    Args:
        params: the settings.
        personas: how many there are.

    Returns:
        What the pilot's calls after its first games have cost, in US dollars: synthesis does not make them again.

    Raises:
        UserError: a teacher that cannot be reached, a pilot that kept nothing, or `teacher.max_cost` spent.
    """
    if not 0 < params.teacher.pilot_personas < personas:
        return 0.0
    found, later = run_pilot(params, personas)
    logger = get_run_logger()
    logger.info(found.sentence())
    create_markdown_artifact(found.sentence(), key="forecast")
    limit = params.teacher.max_cost
    if limit is not None and found.cost is not None and found.cost.value > limit:
        logger.warning("teacher.max_cost is $%.2f: the run will probably stop before it has asked for all", limit)
    return later


def run_pilot(params: Params, personas: int) -> tuple[Forecast, float]:
    """The forecast for `personas` personas, and what the pilot's calls after its first games have cost.

    Raises:
        UserError: the pilot kept no game: the rest would be wasted.
    """
    # A batch takes up to a day; the pilot's calls go out one by one; the rest counts at the price of batches.
    batch = params.teacher.transport == "batch"
    one_by_one = params.teacher.model_copy(update={"transport": "chat", "processes": 1})
    with access_to(one_by_one) as access:
        first, refined = play_pilot(params, access)
    problem = nothing_kept(refined, params.teacher.pilot_personas)
    if problem:
        raise UserError("pilot_kept_nothing", problem, personas=params.teacher.pilot_personas)
    prices = load_prices(params.teacher.prices)
    accounts = [account for account, _ in persona_accounts(refined, prices, batch=batch)]
    later = Account(prices)
    for known, sample in zip(first, refined, strict=True):
        later.add_all(sample.attempts[len(known) :])
    whole = Account(prices)
    whole.add_all(attempt for sample in refined for attempt in sample.attempts)
    return forecast(accounts, personas, whole.cost), later.cost or 0.0


@task(name="pilot", cache_policy=NO_CACHE)
def play_pilot(params: Params, access: Access) -> tuple[list[list[Attempt]], list[Refined]]:
    """The first answers and the end of every sample of the pilot's personas."""
    personas = pilot_personas(
        load_personas(Path(params.personas.path), params.personas.limit), params.teacher.pilot_personas
    )

    async def work() -> tuple[list[list[Attempt]], list[Refined]]:
        samples = [(persona, number) for persona in personas for number in range(params.synthesis.samples_per_persona)]
        async with open_teacher(access) as (teacher, _):
            first = await synthesise_shard(samples, teacher, params)
            return first, await refine_shard(first, teacher, params)

    return uvloop.run(work())
