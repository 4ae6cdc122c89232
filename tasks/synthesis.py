"""Synthesis: the first answers of every sample, shard by shard."""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

from prefect.utilities.collections import batched_iterable

from agentrefine.files import write_json, write_jsonl
from agentrefine.game.counts import SynthesisCounts
from agentrefine.game.personas import Persona, load_personas
from agentrefine.game.verdict import Attempt
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.synthesis.accounts import Account
from agentrefine.synthesis.first_answers import synthesise_shard
from tasks.teaching import Access, access_to, log_cost, run_shards, shard_size
from tasks.tracking.progress import Progress, progress

OUT = Path("data/synthesis")


def write_attempts(params: Params, spent: float = 0.0) -> None:
    """Ask the teacher for every sample's first script and game, and write the raw answers with their counts.

    `spent` is what the pilot of a forecast has cost beyond these answers, in US dollars.

    Raises:
        UserError: a bad personas file, a teacher that cannot be reached, `teacher.max_cost` spent, a full disk.
    """
    count = sum(1 for _ in personas(params))
    samples = count * params.synthesis.samples_per_persona
    account = Account(load_prices(params.teacher.prices))
    kinds: Counter[str] = Counter()
    with (
        access_to(params.teacher, spent=spent) as access,
        progress("synthesis", samples, "sample") as bar,
        closing(_attempts(params, access, bar, account, kinds)) as attempts,
    ):
        write_jsonl(OUT / "attempts.jsonl", attempts)
    log_cost("synthesis", account)
    counts = SynthesisCounts(
        personas=count,
        samples=samples,
        scripts=kinds["script"],
        trajectories=kinds["trajectory"],
        **dict(account.total()),
    )
    write_json(OUT / "metrics.json", counts.model_dump())


def personas(params: Params) -> Iterator[Persona]:
    """The personas that params.yaml names.

    Raises:
        UserError: a bad personas file.
    """
    return load_personas(Path(params.personas.path), params.personas.limit)


def _attempts(
    params: Params, access: Access, bar: Progress, account: Account, kinds: Counter[str]
) -> Generator[Attempt]:
    """The first answers of every sample, counted."""
    samples = ((p, number) for p in personas(params) for number in range(params.synthesis.samples_per_persona))
    named = ((shard[0][0].id, shard) for shard in batched_iterable(samples, shard_size(params)))
    with closing(run_shards("synthesis", synthesise_shard, named, params, access, bar)) as results:
        for attempt in chain.from_iterable(chain.from_iterable(results)):
            account.add(attempt)
            kinds[attempt.kind] += 1
            yield attempt
