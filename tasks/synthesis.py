"""Synthesis as tasks, one per shard of samples."""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import uvloop
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from agentrefine.files import write_json, write_jsonl
from agentrefine.game.counts import SynthesisCounts
from agentrefine.game.personas import Persona, load_personas
from agentrefine.game.verdict import Attempt
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.synthesis.accounts import Account
from agentrefine.synthesis.client import DONE
from agentrefine.synthesis.first_answers import synthesise_shard
from tasks.forecast import log_forecast
from tasks.progress import Progress, progress
from tasks.teaching import (
    Access,
    access_to,
    log_cost,
    open_teacher,
    retry_unless_user_error,
    run_shards,
    shard_size,
    shards,
)

OUT = Path("data/synthesis")


def write_attempts(params: Params) -> None:
    """Ask the teacher for every sample's first script and game, and write the raw answers with their counts.

    Raises:
        UserError: a bad personas file, a teacher that cannot be reached, `teacher.max_cost` spent, a full disk.
    """
    personas = sum(1 for _ in _personas(params))
    samples = personas * params.synthesis.samples_per_persona
    account = Account(load_prices(params.teacher.prices))
    kinds: Counter[str] = Counter()
    spent = log_forecast(params, personas)
    with (
        access_to(params.teacher, spent=spent) as access,
        progress("synthesis", samples, "sample") as bar,
        closing(_attempts(params, access, bar)) as attempts,
    ):
        write_jsonl(OUT / "attempts.jsonl", _counted(attempts, account, kinds))
    log_cost("synthesis", account)
    counts = SynthesisCounts(
        personas=personas,
        samples=samples,
        scripts=kinds["script"],
        trajectories=kinds["trajectory"],
        **dict(account.total()),
    )
    write_json(OUT / "metrics.json", counts.model_dump())


def _personas(params: Params) -> Iterator[Persona]:
    return load_personas(Path(params.personas.path), params.personas.limit)


def _attempts(params: Params, access: Access, bar: Progress) -> Generator[Attempt]:
    samples = ((p, number) for p in _personas(params) for number in range(params.synthesis.samples_per_persona))
    named = ((f"synthesis-{shard[0][0].id}", shard) for shard in shards(samples, shard_size(params)))
    with closing(run_shards(synthesise_samples, named, params, access, bar)) as results:
        for attempts in chain.from_iterable(results):
            yield from attempts


def _counted(attempts: Iterator[Attempt], account: Account, kinds: Counter[str]) -> Iterator[Attempt]:
    for attempt in attempts:
        account.add(attempt)
        kinds[attempt.kind] += 1
        yield attempt


# Not cached: the journal answers what has been asked before, call by call, also after a crash in mid-shard.
@task(
    name="synthesis",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=retry_unless_user_error,
)
def synthesise_samples(samples: list[tuple[Persona, int]], params: Params, access: Access) -> list[list[Attempt]]:
    """The first answers of a shard of samples, in their order."""

    async def work() -> list[list[Attempt]]:
        async with open_teacher(access) as (teacher, numbers):
            return await synthesise_shard(samples, teacher, params, lambda: numbers.add(DONE, 1))

    return uvloop.run(work())
