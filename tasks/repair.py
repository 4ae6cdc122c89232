"""Repair: every sample until it is kept or dropped, shard by shard."""

from collections import Counter
from collections.abc import Generator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

from prefect.utilities.collections import batched_iterable

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, read_jsonl, write_json
from agentrefine.game.counts import RepairCounts, WholeCost
from agentrefine.game.trajectory import Trajectory
from agentrefine.game.verdict import Attempt, Verdict, by_sample
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.synthesis.accounts import Account, persona_accounts
from agentrefine.synthesis.repair import Repaired, repair_shard
from tasks.teaching import access_to, log_cost, run_shards, shard_size
from tasks.tracking.progress import progress

ATTEMPTS = Path("data/synthesis/attempts.jsonl")
VERDICTS = Path("data/verification/verdicts.jsonl")
OUT = Path("data/repair")


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
                    dropped_by_rule[refined.outcome.rule] += 1
                    dropped.write(refined.outcome.model_dump_json() + "\n")
    log_cost("synthesis and repair", whole)
    figures = RepairCounts(
        personas=counts["personas"],
        personas_kept=counts["personas_kept"],
        personas_dropped=counts["personas"] - counts["personas_kept"],
        samples=counts["kept"] + dropped_by_rule.total(),
        kept=counts["kept"],
        dropped=dropped_by_rule.total(),
        **dict(stage.total()),
        with_synthesis=WholeCost(
            **dict(whole.total()),
            per_persona=whole.each(counts["personas"]),
            per_kept_trajectory=whole.each(counts["kept"]),
        ),
        dropped_by_rule=dict(sorted(dropped_by_rule.items())),
    )
    write_json(OUT / "metrics.json", figures.model_dump())


def _refined(params: Params, stage: Account) -> Generator[Repaired]:
    """The end of every sample; `stage` counts the calls that synthesis had not made."""
    total = 0
    first_answers = Account(load_prices(params.teacher.prices))
    for attempts in by_sample(read_jsonl(ATTEMPTS, Attempt)):
        total += 1
        first_answers.add_all(attempts)
    verdicts = read_jsonl(VERDICTS, Verdict)
    samples, known = by_sample(read_jsonl(ATTEMPTS, Attempt)), by_sample(read_jsonl(ATTEMPTS, Attempt))
    with (
        access_to(params.teacher, spent=first_answers.cost or 0.0) as access,
        progress("repair", total, "sample") as bar,
    ):
        named = ((s[0][0].persona_id, s) for s in batched_iterable(samples, shard_size(params)))
        with closing(run_shards("repair", repair_shard, named, params, access, bar)) as results:
            for refined, attempts in zip(chain.from_iterable(results), known, strict=True):
                first = len(attempts)
                _check_verdicts(refined, list(islice(verdicts, first)))
                stage.add_all(refined.attempts[first:])
                yield refined


def _check_verdicts(refined: Repaired, recorded: list[Verdict]) -> None:
    """Refine only what the verification stage has judged, by the rules of today."""
    if refined.verdicts[: len(recorded)] != recorded or not recorded:
        sample = refined.attempts[0]
        message = (
            f"{VERDICTS}: the verdicts on persona {sample.persona_id}, sample {sample.sample}, are not those of the "
            "present rules and attempts; run the verification stage again."
        )
        raise UserError("verdicts_outdated", message, file=VERDICTS, persona=sample.persona_id, sample=sample.sample)
