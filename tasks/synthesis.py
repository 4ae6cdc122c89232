"""Synthesis as tasks, one per shard of samples."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from agentrefine.files import write_json, write_jsonl
from agentrefine.params import Params
from agentrefine.personas import Persona, load_personas
from agentrefine.synthesis import Attempt, synthesise_shard
from tasks.progress import Progress, progress
from tasks.teaching import open_teacher, shards, teacher_address, unless_users_mistake

VERSION = "1"
OUT = Path("data/synthesis")
COUNTS = ("personas", "samples", "scripts", "trajectories", "calls", "prompt_tokens", "completion_tokens")


def write_attempts(params: Params) -> None:
    """Ask the teacher for every sample's first script and game, and write the raw answers with their counts.

    Raises:
        UserError: a bad personas file, a teacher that cannot be reached, a full disk.
    """
    personas = sum(1 for _ in _personas(params))
    samples = personas * params.synthesis.samples_per_persona
    counts: Counter[str] = Counter(personas=personas, samples=samples)
    with teacher_address(params.teacher) as address, progress("synthesis", samples, "sample") as bar:
        write_jsonl(OUT / "attempts.jsonl", _counted(_attempts(params, address, bar), counts))
    write_json(OUT / "metrics.json", {name: counts[name] for name in COUNTS})


def _personas(params: Params) -> Iterator[Persona]:
    return load_personas(Path(params.personas.path), params.personas.limit)


def _attempts(params: Params, address: str, bar: Progress) -> Iterator[Attempt]:
    samples = ((p, number) for p in _personas(params) for number in range(params.synthesis.samples_per_persona))
    for shard in shards(samples, params.synthesis.shard_size):
        yield from synthesise_samples.with_options(task_run_name=f"synthesis-{shard[0][0].id}")(
            shard, params, address, bar
        )
        bar.publish()


def _counted(attempts: Iterator[Attempt], counts: Counter[str]) -> Iterator[Attempt]:
    for attempt in attempts:
        counts["calls"] += 1
        counts["scripts" if attempt.kind == "script" else "trajectories"] += 1
        counts["prompt_tokens"] += attempt.usage.prompt_tokens
        counts["completion_tokens"] += attempt.usage.completion_tokens
        yield attempt


# Not cached: the journal answers what has been asked before, call by call, also after a crash in mid-shard.
@task(
    name="synthesis",
    version=VERSION,
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=unless_users_mistake,
)
def synthesise_samples(
    samples: list[tuple[Persona, int]], params: Params, address: str, bar: Progress
) -> list[Attempt]:
    """The first answers of a shard of samples, in their order."""

    async def work() -> list[Attempt]:
        async with open_teacher(params.teacher, address) as teacher:
            answers = await synthesise_shard(samples, teacher, params, bar.advance)
        return [attempt for sample in answers for attempt in sample]

    return asyncio.run(work())
