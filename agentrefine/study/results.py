"""A study: what the models of several variants and seeds reached, from files that machines can add to.

Each model's result is a folder with `card.json` (`ResultCard`) and `outcomes.jsonl` (`EpisodeOutcome`, one a line).
The study reads all such folders of one place, whoever computed them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel

from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import is_stuck
from agentrefine.evaluation.metrics.recovery import SOON, Aftermath, aftermaths
from agentrefine.files import atomic_folder, read_jsonl, read_result, short_hash, write_json, write_jsonl
from agentrefine.params import Params
from agentrefine.params.evaluation import WHO_PLAYS
from agentrefine.params.seeds import ON_POLICY, without_seed
from agentrefine.report.inputs import Project
from agentrefine.sources import digest
from agentrefine.study.rates import SeededCounts
from agentrefine.tuning.cards import TunedCard, read_card
from agentrefine.tuning.models import model_digest
from agentrefine.tuning.train import PARAMS_WITHOUT_EFFECT

CARD, OUTCOMES = "card.json", "outcomes.jsonl"

CODE = ("agentrefine.tuning.train", "agentrefine.evaluation.evaluate")
"""Modules whose code decides a result, with all that they lead to."""


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
        games: of the data set.
        passes: over them.
        steps, tokens, trained_tokens: of the tuning.
        tuning: the parameters that decide the weights (section `tuning`).
        validation_loss: on masked validation samples at the end, nats per token.
        rules: how the episodes are drawn and played.
        code: a digest of the code that tunes and plays.
        machine: its processor.
    """

    variant: str
    seed: int | None
    digest: str = ""
    base_digest: str = ""
    train_on: str = ""
    data_set: str = ""
    data_set_sha256: dict[str, str] = {}
    games: int = 0
    passes: float = 0.0
    steps: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    tuning: dict[str, object] = {}
    validation_loss: float | None = None
    rules: dict[str, object]
    code: str
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
    return {"seed": params.seed, **params.evaluation.model_dump(mode="json", exclude=set(WHO_PLAYS))}


def read_results(folder: Path) -> list[Result]:
    """All results of a folder, in the order of their names.

    Raises:
        UserError: there is none, one is broken, or as `check_comparable`.
    """
    cards = read_cards(folder)
    if not cards:
        raise UserError("no_results", f"{folder}: holds no result; run `agentrefine study`.", file=folder)
    check_comparable(cards, folder)
    return [Result(card, list(read_jsonl(folder / card.name / OUTCOMES, EpisodeOutcome))) for card in cards]


def read_cards(folder: Path) -> list[ResultCard]:
    """The cards of the results in a folder, in the order of their names.

    Raises:
        UserError: one is broken, or lies in a folder of another name.
    """
    cards = []
    for file in sorted(folder.glob(f"*/{CARD}")):
        card = read_result(file, ResultCard, "study")
        if file.parent.name != card.name:
            message = f"{file}: is the card of {card.name}; rename its folder to that."
            raise UserError("wrong_folder", message, file=file, name=card.name)
        cards.append(card)
    return cards


def check_comparable(cards: Sequence[ResultCard], folder: Path) -> None:
    """Refuse results that differ in more than variant, seed, machine and version of the code.

    All must have been played by the same rules and tuned by the same parameters; those of a variant must have trained
    the same turns of the same data set, where it is not made of the model's own games.

    Raises:
        UserError: names two results and what they differ in.
    """
    tuned = [card for card in cards if card.train_on]
    same = [(cards, _rules), (tuned, _tuning)]
    same += [([card for card in tuned if card.variant == name], _trained) for name in {c.variant for c in tuned}]
    for group, values_of in same:
        for card in group[1:]:
            if differing := _differing(values_of(group[0]), values_of(card)):
                message = (
                    f"{folder}: {group[0].name} and {card.name} differ in {', '.join(differing)}, so they cannot be "
                    "compared; move one of the two elsewhere, or make it again as the other was."
                )
                names = {"a": group[0].name, "b": card.name}
                raise UserError("not_comparable", message, file=folder, keys=differing, **names)


def check_joins(params: Params, folder: Path) -> None:
    """Refuse to begin what could not be compared with the results of a folder; one without results takes anything.

    Raises:
        UserError: as `check_comparable`, or the parameters would tune or play by others than those results.
    """
    cards = read_cards(folder)
    check_comparable(cards, folder)
    tuning = params.tuning.model_dump(mode="json", exclude=PARAMS_WITHOUT_EFFECT)
    for card in cards:
        for known, wanted in ((card.rules, rules_of(params)), (card.tuning or tuning, tuning)):
            if differing := _differing(known, wanted):
                message = (
                    f"{folder}: {card.name} was made with other values of {', '.join(differing)} than are asked for "
                    "now, so further seeds could not be compared with it; ask for the same, or give the study another "
                    "name."
                )
                raise UserError("not_comparable", message, file=folder, keys=differing, a=card.name)


def _differing(a: Mapping[str, object], b: Mapping[str, object]) -> list[str]:
    """The keys whose values differ."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _rules(card: ResultCard) -> dict[str, object]:
    return card.rules


def _tuning(card: ResultCard) -> dict[str, object]:
    return card.tuning


def _trained(card: ResultCard) -> dict[str, object]:
    """What must be the same for all seeds of a variant."""
    data_set = card.data_set.removesuffix(f"-{card.seed}")
    files = {} if data_set.startswith(ON_POLICY) else card.data_set_sha256
    return {"train_on": card.train_on, "data_set": data_set, **files}


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
    rules, code = rules_of(params), short_hash(*map(digest, CODE))
    variant = params.tuning.variants.get(model)
    folder = project.root / "models" / model
    if variant is None:
        weights = model_digest(folder) if folder.is_dir() else ""
        return ResultCard(variant=model, seed=None, digest=weights, rules=rules, code=code, machine=machine)
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
        games=card.rendering.samples,
        passes=round(card.tokens / card.rendering.tokens, 2),
        steps=card.steps,
        tokens=card.tokens,
        trained_tokens=card.trained_tokens,
        tuning=card.params,
        validation_loss=card.validation_loss,
        rules=rules,
        code=code,
        machine=machine,
    )
