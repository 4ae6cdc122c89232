"""A study: what the models of several variants and seeds reached, from files that machines can add to.

Each model's result is a folder with `card.json` (`ResultCard`) and `outcomes.jsonl` (`EpisodeOutcome`, one a line).
The study reads all such folders of one place, whoever computed them.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel

from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import is_stuck
from agentrefine.evaluation.metrics.recovery import SOON, Aftermath, aftermaths
from agentrefine.files import atomic_folder, read_jsonl, read_result, write_json, write_jsonl
from agentrefine.params import Params
from agentrefine.params.seeds import without_seed
from agentrefine.report.inputs import Project
from agentrefine.study.rates import SeededCounts
from agentrefine.tuning.cards import TunedCard, read_card
from agentrefine.tuning.models import model_digest

CARD, OUTCOMES = "card.json", "outcomes.jsonl"

WHO = {"models", "endpoints", "references", "data", "batch_size"}
"""Keys of the section `evaluation` that do not decide how an episode is played."""


class EpisodeOutcome(BaseModel, frozen=True):
    """What one episode came to.

    Example: `{"benchmark": "worlds_layouts", "cluster": "fetch.attic.90", "solved": 1, "progress": 1.0, ...}`

    Attributes:
        benchmark, cluster: where it belongs (`Episode.cluster`).
        solved: 1 or 0.
        progress: best share of sub-goals reached, in [0, 1].
        steps: turns of the agent.
        valid: of them, those with a possible action.
        format_errors: of them, those not in the form of a thought and an action.
        stuck: 1 where the same failing action came three times.
        errors: turns that failed and were followed by another one.
        recovered, recovered_soon: of these, those after which the next action, or one of the next three, was valid and
            another one.
        repeated: of these, those whose next turn failed in the same way.
        recovered_by_kind: errors and recoveries of each kind of error.
    """

    benchmark: str
    cluster: str
    solved: int
    progress: float
    steps: int
    valid: int
    format_errors: int
    stuck: int
    errors: int
    recovered: int
    recovered_soon: int
    repeated: int
    recovered_by_kind: dict[str, tuple[int, int]] = {}


class Measure(NamedTuple):
    """A rate of a study: a field of `EpisodeOutcome`, what it is a share of (None: episodes), and its name."""

    hits: str
    of: str | None
    name: str


MEASURES = (
    Measure("solved", None, "success"),
    Measure("progress", None, "progress"),
    Measure("valid", "steps", "grounding"),
    Measure("recovered", "errors", "recovery"),
    Measure("recovered_soon", "errors", "within 3"),
    Measure("repeated", "errors", "repeated"),
    Measure("stuck", None, "stuck"),
)


class ResultCard(BaseModel, frozen=True):
    """Whose result it is, and by which rules it was reached: two results are compared where the rules are equal.

    Example: `{"variant": "refinement", "seed": 8, "digest": "ab..", "train_on": "correct_turns", ...}`

    Attributes:
        variant, seed: of the model; no seed where nothing is tuned.
        digest: of its weights; empty where it has none.
        base_digest: of the weights that it was tuned from.
        train_on, data_set, data_set_sha256: what it was tuned on.
        steps, tokens, trained_tokens: of the tuning.
        tuning: the parameters that decide the weights.
        validation_loss: on masked validation samples at the end, nats per token.
        rules: how the episodes are drawn and played.
        machine: its processor.
    """

    variant: str
    seed: int | None
    digest: str = ""
    base_digest: str = ""
    train_on: str = ""
    data_set: str = ""
    data_set_sha256: dict[str, str] = {}
    steps: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    tuning: dict[str, object] = {}
    validation_loss: float | None = None
    rules: dict[str, object]
    machine: str

    @property
    def name(self) -> str:
        """Of the result's folder: `refinement-8`."""
        return self.variant if self.seed is None else f"{self.variant}-{self.seed}"


class Result(NamedTuple):
    """A model's card and its episodes' outcomes."""

    card: ResultCard
    outcomes: list[EpisodeOutcome]


def outcome_of(episode: Episode) -> EpisodeOutcome:
    """What a study keeps of an episode."""
    steps = episode.steps
    errors = aftermaths(episode)
    kinds = sorted({error.kind for error in errors})
    return EpisodeOutcome(
        benchmark=episode.benchmark,
        cluster=episode.cluster,
        solved=int(episode.success),
        progress=episode.progress,
        steps=len(steps),
        valid=sum(step.valid for step in steps),
        format_errors=sum(step.format_error for step in steps),
        stuck=int(is_stuck(episode)),
        errors=len(errors),
        recovered=_recovered(errors, 1),
        recovered_soon=_recovered(errors, SOON),
        repeated=sum(error.repeated for error in errors),
        recovered_by_kind={
            kind: (len(of_kind), _recovered(of_kind, 1))
            for kind in kinds
            if (of_kind := [error for error in errors if error.kind == kind])
        },
    )


def _recovered(errors: Sequence[Aftermath], turns: int) -> int:
    return sum(error.turns is not None and error.turns <= turns for error in errors)


def keep_results(params: Params, project: Project, folder: Path, machine: str) -> list[str]:
    """Write a result folder for every model of a finished pipeline run; returns their names.

    Raises:
        UserError: an evaluation or a model is missing or broken, or the disk is full.
    """
    kept = []
    for model in params.evaluation.players:
        card = _card(model, params, project, machine)
        with atomic_folder(folder / card.name) as out:
            write_json(out / CARD, card.model_dump())
            write_jsonl(out / OUTCOMES, (outcome_of(e) for e in project.episodes(model) if e.is_evidence))
        kept.append(card.name)
    return kept


def rules_of(params: Params) -> dict[str, object]:
    """How the episodes are drawn and played."""
    return {"seed": params.seed, **params.evaluation.model_dump(mode="json", exclude=WHO)}


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, in the order of their names.

    Raises:
        UserError: there is none, one is broken, or two were reached by different rules.
    """
    results = [
        Result(read_result(card, ResultCard, "study"), list(read_jsonl(card.parent / OUTCOMES, EpisodeOutcome)))
        for card in sorted(folder.glob(f"*/{CARD}"))
    ]
    if not results:
        raise UserError("no_results", f"{folder}: holds no result; run `agentrefine study`.", file=folder)
    first = results[0].card
    for other in (result.card for result in results):
        keys = first.rules.keys() | other.rules.keys()
        differing = sorted(key for key in keys if first.rules.get(key) != other.rules.get(key))
        if differing:
            message = (
                f"{folder}: {first.name} and {other.name} were played by different rules ({', '.join(differing)}), so "
                "they cannot be compared; move one of the two elsewhere, or play it again by the other's rules."
            )
            raise UserError("not_comparable", message, file=folder, keys=differing, a=first.name, b=other.name)
    return results


def variants_of(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each variant, in the order of the seeds."""
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda r: (r.card.variant, r.card.seed if r.card.seed is not None else -1)):
        found.setdefault(result.card.variant, []).append(result)
    return found


def counts_of(results: Sequence[Result], benchmark: str, measure: Measure) -> SeededCounts:
    """What a rate of one variant on one benchmark is made of, by seed and cluster."""

    def counted(outcome: EpisodeOutcome) -> tuple[float, float]:
        return getattr(outcome, measure.hits), 1 if measure.of is None else getattr(outcome, measure.of)

    return _counts(results, benchmark, counted)


def recoveries_of(results: Sequence[Result], benchmark: str, kind: str) -> SeededCounts:
    """The recoveries of one variant on one benchmark from one kind of error."""

    def counted(outcome: EpisodeOutcome) -> tuple[float, float]:
        errors, recovered = outcome.recovered_by_kind.get(kind, (0, 0))
        return recovered, errors

    return _counts(results, benchmark, counted)


def _counts(
    results: Sequence[Result], benchmark: str, counted: Callable[[EpisodeOutcome], tuple[float, float]]
) -> SeededCounts:
    played = [[o for o in result.outcomes if o.benchmark == benchmark] for result in results]
    clusters = tuple(sorted({outcome.cluster for outcomes in played for outcome in outcomes}))
    column = {cluster: place for place, cluster in enumerate(clusters)}
    hits, of = np.zeros((len(results), len(clusters))), np.zeros((len(results), len(clusters)))
    for row, outcomes in enumerate(played):
        for outcome in outcomes:
            place = row, column[outcome.cluster]
            hit, share_of = counted(outcome)
            hits[place] += hit
            of[place] += share_of
    seeds = tuple(result.card.seed for result in results)
    return SeededCounts(seeds, clusters, hits, of)


def benchmarks_of(results: Iterable[Result]) -> list[str]:
    """The benchmarks that were played, in the order of playing."""
    return list(dict.fromkeys(outcome.benchmark for result in results for outcome in result.outcomes))


def _card(model: str, params: Params, project: Project, machine: str) -> ResultCard:
    """What is known of a model that has been evaluated.

    Raises:
        UserError: its weights or card are missing.
    """
    rules = rules_of(params)
    variant = params.tuning.variants.get(model)
    folder = project.root / "models" / model
    if variant is None:
        digest = model_digest(folder) if folder.is_dir() else ""
        return ResultCard(variant=model, seed=None, digest=digest, rules=rules, machine=machine)
    card = read_card(folder)
    if not isinstance(card, TunedCard):
        message = f"{folder}: there is no card of a tuned model; run the stage tuning@{model}."
        raise UserError("stage_not_run", message, file=folder, stage=f"tuning@{model}")
    return ResultCard(
        variant=without_seed(model, variant),
        seed=card.seed,
        digest=model_digest(folder),
        base_digest=card.base_digest,
        train_on=card.train_on,
        data_set=card.data_set,
        data_set_sha256=card.data_set_sha256,
        steps=card.steps,
        tokens=card.tokens,
        trained_tokens=card.trained_tokens,
        tuning=card.params,
        validation_loss=card.validation_loss,
        rules=rules,
        machine=machine,
    )
