"""Refinement as tasks, one per shard of samples."""

from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

import uvloop
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, read_jsonl, write_json
from agentrefine.game.counts import RefinementCounts, WholeCost
from agentrefine.game.trajectory import Trajectory
from agentrefine.game.verdict import Attempt, Verdict, by_sample
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.synthesis.accounts import Account, persona_accounts
from agentrefine.synthesis.client import DONE
from agentrefine.synthesis.refinement import Refined, refine_shard
from tasks.progress import progress
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

ATTEMPTS = Path("data/synthesis/attempts.jsonl")
VERDICTS = Path("data/verification/verdicts.jsonl")
OUT = Path("data/refinement")


def write_trajectories(params: Params) -> None:
    """Work on every sample until it is kept or dropped, and write both kinds, with what each persona has cost.

    Raises:
        UserError: the attempts are missing or broken, a teacher that cannot be reached, `teacher.max_cost` spent, a
            full disk.
    """
    prices = load_prices(params.teacher.prices)
    stage, whole = Account(prices), Account(prices)
    counts: Counter[str] = Counter()
    dropped_by_rule: Counter[str] = Counter()
    with (
        atomic_write(OUT / "trajectories.jsonl") as kept,
        atomic_write(OUT / "dropped.jsonl") as dropped,
        atomic_write(OUT / "costs.jsonl") as costs,
        closing(_refined(params, stage)) as ended,
    ):
        for persona, samples in persona_accounts(ended, prices):
            costs.write(persona.model_dump_json() + "\n")
            counts["personas"] += 1
            counts["personas_kept"] += persona.kept > 0
            for refined in samples:
                whole.add_all(refined.attempts)
                if isinstance(refined.outcome, Trajectory):
                    counts["kept"] += 1
                    kept.write(refined.outcome.model_dump_json() + "\n")
                else:
                    counts["dropped"] += 1
                    dropped_by_rule[refined.outcome.rule] += 1
                    dropped.write(refined.outcome.model_dump_json() + "\n")
    log_cost("synthesis and refinement", whole)
    figures = RefinementCounts(
        personas=counts["personas"],
        personas_kept=counts["personas_kept"],
        personas_dropped=counts["personas"] - counts["personas_kept"],
        samples=counts["kept"] + counts["dropped"],
        kept=counts["kept"],
        dropped=counts["dropped"],
        **dict(stage.total()),
        with_synthesis=WholeCost(
            **dict(whole.total()),
            per_persona=whole.each(counts["personas"]),
            per_kept_trajectory=whole.each(counts["kept"]),
        ),
        dropped_by_rule=dict(sorted(dropped_by_rule.items())),
    )
    write_json(OUT / "metrics.json", figures.model_dump())


def _refined(params: Params, stage: Account) -> Generator[Refined]:
    """The end of every sample; `stage` counts the calls that synthesis had not made."""
    total, spent = _first_attempts(params)
    verdicts = read_jsonl(VERDICTS, Verdict)
    samples = by_sample(read_jsonl(ATTEMPTS, Attempt))
    known: deque[int] = deque()
    with access_to(params.teacher, spent=spent) as access, progress("refinement", total, "sample") as bar:
        named = ((f"refinement-{s[0][0].persona_id}", s) for s in shards(_noted(samples, known), shard_size(params)))
        with closing(run_shards(refine_samples, named, params, access, bar)) as results:
            for refined in chain.from_iterable(results):
                first = known.popleft()
                _check_verdicts(refined, list(islice(verdicts, first)))
                stage.add_all(refined.attempts[first:])
                yield refined


def _first_attempts(params: Params) -> tuple[int, float]:
    """How many samples synthesis began, and what that has cost, as far as it is known."""
    account = Account(load_prices(params.teacher.prices))
    total = 0
    for attempts in by_sample(read_jsonl(ATTEMPTS, Attempt)):
        total += 1
        account.add_all(attempts)
    return total, account.cost or 0.0


def _noted(samples: Iterator[list[Attempt]], known: deque[int]) -> Iterator[list[Attempt]]:
    """The samples, with the number of answers that each of them has already noted down."""
    for attempts in samples:
        known.append(len(attempts))
        yield attempts


def _check_verdicts(refined: Refined, recorded: list[Verdict]) -> None:
    """Refine only what the verification stage has judged, by the rules of today."""
    if refined.verdicts[: len(recorded)] != recorded or not recorded:
        sample = refined.attempts[0]
        raise UserError(
            "verdicts_outdated",
            f"{VERDICTS}: the verdicts on persona {sample.persona_id}, sample {sample.sample}, are not those of the "
            "present rules and attempts; run the verification stage again.",
            file=VERDICTS,
            persona=sample.persona_id,
            sample=sample.sample,
        )


# Not cached: the journal answers what has been asked before, call by call, also after a crash in mid-shard.
@task(
    name="refinement",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=retry_unless_user_error,
)
def refine_samples(samples: list[list[Attempt]], params: Params, access: Access) -> list[Refined]:
    """Work on a shard of samples until each is kept or dropped, in their order."""

    async def work() -> list[Refined]:
        async with open_teacher(access) as (teacher, numbers):
            return await refine_shard(samples, teacher, params, lambda: numbers.add(DONE, 1))

    return uvloop.run(work())
