"""Verification as tasks, one per shard of samples."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import task
from prefect.context import TaskRunContext
from prefect.utilities.collections import batched_iterable
from prefect.utilities.hashing import hash_objects

from agentrefine.files import read_jsonl, write_json, write_jsonl
from agentrefine.game.counts import VerificationCounts
from agentrefine.game.verdict import Attempt, Verdict, by_sample
from agentrefine.params import Params, VerificationParams
from agentrefine.sources import digest
from agentrefine.verification.trajectory_rules import verify_attempts
from tasks.tracking.progress import progress

ATTEMPTS = Path("data/synthesis/attempts.jsonl")
OUT = Path("data/verification")
SAMPLES_PER_TASK = 1000


def write_verdicts(params: Params) -> None:
    """Judge every attempt by the rules, and write the verdicts with their counts.

    Raises:
        UserError: the attempts are missing or broken, or the disk is full.
    """
    by_rule: Counter[str] = Counter()
    judged = write_jsonl(OUT / "verdicts.jsonl", _verdicts(params, by_rule))
    rejected = by_rule.total()
    figures = VerificationCounts(
        judged=judged, passed=judged - rejected, rejected=rejected, by_rule=dict(sorted(by_rule.items()))
    )
    write_json(OUT / "metrics.json", figures.model_dump())


def _verdicts(params: Params, by_rule: Counter[str]) -> Iterator[Verdict]:
    """The verdicts on all attempts; `by_rule` counts those that break a rule."""
    total = sum(1 for _ in read_jsonl(ATTEMPTS, Attempt))
    with progress("verification", total, "answer") as bar:
        for shard in batched_iterable(by_sample(read_jsonl(ATTEMPTS, Attempt)), SAMPLES_PER_TASK):
            lines = judge_attempts([a.model_dump_json() for sample in shard for a in sample], params.verification)
            for verdict in map(Verdict.model_validate_json, lines):
                by_rule.update([] if verdict.passed else [verdict.rule])
                yield verdict
            bar.advance(len(lines))


def _source_and_inputs(context: TaskRunContext, arguments: dict[str, Any]) -> str | None:
    """A cache key of the task's name, its arguments and the code that decides its result (`agentrefine.sources`).

    Prefect's own policies know the source of the task's function and not of what it calls.
    """
    return hash_objects(context.task.name, arguments, digest(__name__))


@task(name="verification", cache_key_fn=_source_and_inputs, persist_result=True, result_serializer="json")
def judge_attempts(attempts: list[str], params: VerificationParams) -> list[str]:
    """The verdicts on a shard of attempts, both as JSON."""
    judged = verify_attempts(map(Attempt.model_validate_json, attempts), params)
    return [verdict.model_dump_json() for verdict in judged]
