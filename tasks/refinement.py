"""Refinement as tasks, one per shard of samples."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, read_jsonl, write_json
from agentrefine.params import Params
from agentrefine.refinement import Refined, refine_shard
from agentrefine.synthesis import Attempt, by_sample
from agentrefine.trajectory import Trajectory
from agentrefine.verification import Verdict
from tasks.progress import Progress, progress
from tasks.teaching import open_teacher, shards, teacher_address, unless_users_mistake

VERSION = "1"
ATTEMPTS = Path("data/synthesis/attempts.jsonl")
VERDICTS = Path("data/verification/verdicts.jsonl")
OUT = Path("data/refinement")
COUNTS = ("samples", "kept", "dropped", "calls", "prompt_tokens", "completion_tokens")


def write_trajectories(params: Params) -> None:
    """Work on every sample until it is kept or dropped, and write both kinds with their counts.

    Raises:
        UserError: the attempts are missing or broken, a teacher that cannot be reached, a full disk.
    """
    counts: Counter[str] = Counter()
    dropped_by_rule: Counter[str] = Counter()
    with atomic_write(OUT / "trajectories.jsonl") as kept, atomic_write(OUT / "dropped.jsonl") as dropped:
        for known, refined in _refined(params):
            counts["samples"] += 1
            for attempt in refined.attempts[known:]:
                counts["calls"] += 1
                counts["prompt_tokens"] += attempt.usage.prompt_tokens
                counts["completion_tokens"] += attempt.usage.completion_tokens
            if isinstance(refined.outcome, Trajectory):
                counts["kept"] += 1
                kept.write(refined.outcome.model_dump_json() + "\n")
            else:
                counts["dropped"] += 1
                dropped_by_rule[refined.outcome.rule] += 1
                dropped.write(refined.outcome.model_dump_json() + "\n")
    figures = {name: counts[name] for name in COUNTS}
    write_json(OUT / "metrics.json", {**figures, "dropped_by_rule": dict(sorted(dropped_by_rule.items()))})


def _refined(params: Params) -> Iterator[tuple[int, Refined]]:
    """The end of every sample, with how many of its answers synthesis had asked for."""
    total = sum(1 for _ in by_sample(read_jsonl(ATTEMPTS, Attempt)))
    verdicts = read_jsonl(VERDICTS, Verdict)
    with teacher_address(params.teacher) as address, progress("refinement", total, "sample") as bar:
        for shard in shards(by_sample(read_jsonl(ATTEMPTS, Attempt)), params.synthesis.shard_size):
            for first_attempts, refined in zip(shard, refine_samples(shard, params, address, bar), strict=True):
                _check_verdicts(refined, list(islice(verdicts, len(first_attempts))))
                yield len(first_attempts), refined
            bar.publish()


def _check_verdicts(refined: Refined, recorded: list[Verdict]) -> None:
    """Refine only what the verification stage has judged, by the rules of today."""
    if refined.verdicts[: len(recorded)] != recorded or not recorded:
        sample = refined.attempts[0]
        raise UserError(
            f"{VERDICTS}: the verdicts on persona {sample.persona_id}, sample {sample.sample}, are not those of the "
            "present rules and attempts; run the verification stage again."
        )


# Not cached: the journal answers what has been asked before, call by call, also after a crash in mid-shard.
@task(
    name="refinement",
    version=VERSION,
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=unless_users_mistake,
)
def refine_samples(samples: list[list[Attempt]], params: Params, address: str, bar: Progress) -> list[Refined]:
    """Work on a shard of samples until each is kept or dropped, in their order."""

    async def work() -> list[Refined]:
        async with open_teacher(params.teacher, address) as teacher:
            return await refine_shard(samples, teacher, params, bar.advance)

    return asyncio.run(work())
