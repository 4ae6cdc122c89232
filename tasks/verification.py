"""Verification as tasks, one per shard of samples."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prefect import task

from agentrefine.files import read_jsonl, write_json, write_jsonl
from agentrefine.game.counts import VerificationCounts
from agentrefine.game.verdict import Attempt, Verdict, by_sample
from agentrefine.params import Params, VerificationParams
from agentrefine.verification.trajectory_rules import verify_attempts
from tasks.caching import source_and_inputs
from tasks.progress import progress
from tasks.teaching import shards

ATTEMPTS = Path("data/synthesis/attempts.jsonl")
OUT = Path("data/verification")
SAMPLES_PER_TASK = 1000


def write_verdicts(params: Params) -> None:
    """Judge every attempt by the rules, and write the verdicts with their counts.

    Raises:
        UserError: the attempts are missing or broken, or the disk is full.
    """
    counts: Counter[str] = Counter()
    by_rule: Counter[str] = Counter()
    write_jsonl(OUT / "verdicts.jsonl", _counted(_verdicts(params), counts, by_rule))
    figures = VerificationCounts(
        judged=counts["judged"],
        passed=counts["passed"],
        rejected=counts["rejected"],
        by_rule=dict(sorted(by_rule.items())),
    )
    write_json(OUT / "metrics.json", figures.model_dump())


def _verdicts(params: Params) -> Iterator[Verdict]:
    total = sum(1 for _ in read_jsonl(ATTEMPTS, Attempt))
    with progress("verification", total, "answer") as bar:
        for shard in shards(by_sample(read_jsonl(ATTEMPTS, Attempt)), SAMPLES_PER_TASK):
            lines = judge_attempts([a.model_dump_json() for sample in shard for a in sample], params.verification)
            yield from map(Verdict.model_validate_json, lines)
            bar.advance(len(lines))
            bar.publish()


def _counted(verdicts: Iterator[Verdict], counts: Counter[str], by_rule: Counter[str]) -> Iterator[Verdict]:
    for verdict in verdicts:
        counts["judged"] += 1
        counts["passed" if verdict.passed else "rejected"] += 1
        if not verdict.passed:
            by_rule[verdict.rule] += 1
        yield verdict


@task(
    name="verification",
    cache_key_fn=source_and_inputs,
    persist_result=True,
    result_serializer="json",
)
def judge_attempts(attempts: list[str], params: VerificationParams) -> list[str]:
    """The verdicts on a shard of attempts, both as JSON."""
    judged = verify_attempts(map(Attempt.model_validate_json, attempts), params)
    return [verdict.model_dump_json() for verdict in judged]
