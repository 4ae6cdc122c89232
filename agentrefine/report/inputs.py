"""What the report reads: the small files that every stage leaves, as typed values."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import BenchmarkSummary, Comparison, compare
from agentrefine.files import first_problem, read_jsonl
from agentrefine.params import Params
from agentrefine.params.evaluation import CHANCE
from agentrefine.params.tuning import BASE
from agentrefine.quality.gate import GateResult

ModelT = TypeVar("ModelT", bound=BaseModel)


class Counts(BaseModel):
    """A stage's metrics.json; keys that the report does not show are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SynthesisCounts(Counts):
    """data/synthesis/metrics.json: what was asked at first, and what it cost (`unknown` without prices)."""

    personas: int
    samples: int
    scripts: int
    trajectories: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | str


class VerificationCounts(Counts):
    """data/verification/metrics.json: how the rules judged the first answers."""

    judged: int
    passed: int
    rejected: int
    by_rule: dict[str, int]


class CallCounts(Counts):
    """Calls and their cost in US dollars (`unknown` without prices), for each one of something."""

    calls: float
    tokens: float
    cost_usd: float | str


class WholeCost(Counts):
    """What synthesis and refinement took together. No counts for each kept trajectory where none was kept."""

    cost_usd: float | str
    per_persona: CallCounts
    per_kept_trajectory: CallCounts | dict[str, float]


class RefinementCounts(Counts):
    """data/refinement/metrics.json: what became of every sample."""

    personas_kept: int
    personas_dropped: int

    samples: int
    kept: int
    dropped: int
    dropped_by_rule: dict[str, int]
    calls: int
    cost_usd: float | str
    with_synthesis: WholeCost


class ModelSummary(RootModel[dict[str, BenchmarkSummary]]):
    """data/evaluation/<model>/details.json: a model's summary by benchmark."""


class Timing(RootModel[dict[str, float]]):
    """data/evaluation/<model>/timing.json: wall-clock seconds that all episodes of a benchmark took together."""


class BenchmarksPlayed(Counts):
    """data/evaluation/<model>/benchmarks.json: which benchmarks were played.

    Attributes:
        progress: what the progress rate measures in each of them, in words.
        absent: why the others, which are not installed, were not played.
        agentboard: those whose episodes and labels are AgentBoard's.
    """

    progress: dict[str, str]
    absent: dict[str, str]
    agentboard: list[str]


class Rendering(Counts):
    """What rendering made of a data set (`agentrefine.tuning.data.RenderingCounts`)."""

    samples: int


class TuningFigures(Counts):
    """reports/tuning/<variant>/metrics.json: what tuning did (`agentrefine.tuning.train.TuningResult`)."""

    parameters: int
    trainable_parameters: int
    rendering: Rendering
    steps: int
    tokens: int
    trained_tokens: int
    train_loss: float
    validation_loss_before: float | None
    validation_loss: float | None

    @property
    def trained_share(self) -> float:
        """Share of the tokens read that are trained on, in [0, 1]."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


class BaseCard(Counts):
    """models/base/card.json: what the base is; `path` is None for the tiny model."""

    kind: Literal["tiny", "reference", "gguf"]
    path: str | None = None
    quantisation: str | None = None


class CurvePoint(NamedTuple):
    """One point of a variant's loss curve: optimizer steps, tokens read, loss in nats per trained token."""

    model: str
    step: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class Project:
    """Where the stages leave their files: paths under the project's folder."""

    root: Path = Path()

    def evaluation(self, model: str) -> Path:
        """The folder of a model's evaluation."""
        return self.root / "data" / "evaluation" / model

    def tuning(self, variant: str) -> Path:
        """The folder of a variant's tuning figures."""
        return self.root / "reports" / "tuning" / variant

    def episodes(self, model: str) -> Iterator[Episode]:
        """A model's episodes, streamed.

        Raises:
            UserError: the file is missing or a line is not an episode.
        """
        return read_jsonl(self.evaluation(model) / "episodes.jsonl", Episode)


@dataclass(frozen=True)
class Results:
    """All that the report shows.

    Attributes:
        synthesis, verification, refinement: the data stages' counts.
        gate: the quality gate's result.
        tuning: figures of each tuned variant.
        curves: the loss curves of all variants.
        validation_curves: the same of the validation samples; no points where a data set has none.
        models: what each evaluated model reached, by benchmark; chance first, endpoints last.
        seconds: wall-clock seconds per episode of each model, by benchmark.
        baseline: the model that the tuned ones are compared with.
        comparisons: the pairs of `compared_pairs`, per benchmark.
        at_chance: benchmarks on which nobody is above chance (docs/metrics.md), without the one that decides.
        agentboard: benchmarks that were played on AgentBoard's episodes.
        progress: what the progress rate measures, by benchmark.
        absent: why a benchmark was not played, by benchmark.
        quantisation: what the base's weights were dequantised from, if they were.
    """

    synthesis: SynthesisCounts
    verification: VerificationCounts
    refinement: RefinementCounts
    gate: GateResult
    tuning: dict[str, TuningFigures]
    curves: list[CurvePoint]
    validation_curves: list[CurvePoint]
    models: dict[str, dict[str, BenchmarkSummary]]
    seconds: dict[str, dict[str, float]]
    baseline: str
    comparisons: list[Comparison]
    at_chance: list[str]
    agentboard: list[str]
    progress: dict[str, str]
    absent: dict[str, str]
    quantisation: str | None

    def against(self, model: str) -> list[Comparison]:
        """The comparisons of the others with a model."""
        return [found for found in self.comparisons if found.b == model]


def load_results(params: Params, project: Project) -> Results:
    """Read what the stages left, for the models and variants that params.yaml names.

    Raises:
        UserError: a file is missing or is not what its stage writes; names it.
    """
    data, reports = project.root / "data", project.root / "reports"
    variants = [model for model in params.evaluation.models if model != BASE]
    players = params.evaluation.players
    models = {model: model_summary(project, model) for model in players}
    comparisons = _comparisons(project, params)
    decides = params.report.champion_benchmark
    played = [read_result(project.evaluation(m) / "benchmarks.json", BenchmarksPlayed, "evaluation") for m in players]
    return Results(
        synthesis=read_result(data / "synthesis" / "metrics.json", SynthesisCounts, "synthesis"),
        verification=read_result(data / "verification" / "metrics.json", VerificationCounts, "verification"),
        refinement=read_result(data / "refinement" / "metrics.json", RefinementCounts, "refinement"),
        gate=read_result(reports / "quality_gate" / "result.json", GateResult, "quality_gate"),
        tuning={v: read_result(project.tuning(v) / "metrics.json", TuningFigures, "tuning") for v in variants},
        curves=[point for v in variants for point in read_curve(project.tuning(v) / "loss_curve.csv", v)],
        validation_curves=[
            point for v in variants for point in read_curve(project.tuning(v) / "validation_curve.csv", v)
        ],
        models=models,
        seconds={model: seconds_per_episode(project, model) for model in players},
        baseline=params.baseline,
        comparisons=comparisons,
        at_chance=[name for name in nobody_above_chance(models, comparisons) if name != decides],
        agentboard=list(dict.fromkeys(name for found in played for name in found.agentboard)),
        progress={name: told for found in played for name, told in found.progress.items()},
        absent={name: told for found in played for name, told in found.absent.items()},
        quantisation=base_quantisation(project),
    )


def base_quantisation(project: Project) -> str | None:
    """What the base's weights were dequantised from, such as `Q4_1`; None where they were not, or no base is here.

    Raises:
        UserError: the base's card is not what its stage writes.
    """
    card = project.root / "models" / BASE / "card.json"
    return read_result(card, BaseCard, "base_model").quantisation if card.is_file() else None


def model_summary(project: Project, model: str) -> dict[str, BenchmarkSummary]:
    """What a model reached, by benchmark.

    Raises:
        UserError: the evaluation has not been run or its file is broken.
    """
    return read_result(project.evaluation(model) / "details.json", ModelSummary, "evaluation").root


def seconds_per_episode(project: Project, model: str) -> dict[str, float]:
    """Wall-clock seconds that a benchmark took over the episodes that were played, by benchmark.

    Episodes are played side by side, so this is what one of them costs and not how long it lasts; it has no interval,
    because the episodes of a batch are not timed apart.

    Raises:
        UserError: the evaluation has not been run or a file of it is broken.
    """
    seconds = read_result(project.evaluation(model) / "timing.json", Timing, "evaluation").root
    played = {name: found.episodes + found.environment_errors for name, found in model_summary(project, model).items()}
    return {name: seconds[name] / number for name, number in played.items() if name in seconds}


def read_curve(path: Path, variant: str) -> list[CurvePoint]:
    """A loss curve from its CSV file with the columns `step`, `loss` and `tokens`.

    Raises:
        UserError: the file is missing or is not such a table; names the line.
    """
    if not path.is_file():
        raise _missing(path, "tuning")
    points = []
    with path.open(encoding="utf-8", newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle), start=2):
            try:
                points.append(CurvePoint(variant, int(row["step"]), int(row["tokens"]), float(row["loss"])))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path}, line {number}: expected numbers in the columns step, loss, tokens; run tuning again."
                ) from error
    return points


def benchmarks(models: Mapping[str, Mapping[str, BenchmarkSummary]]) -> list[str]:
    """The benchmarks that any model played, in the order in which they were played."""
    return list(dict.fromkeys(name for summaries in models.values() for name in summaries))


def notable_episodes(episodes: Iterable[Episode]) -> list[Episode]:
    """For each benchmark the first solved and the first unsolved episode."""
    found: dict[tuple[str, bool], Episode] = {}
    for episode in episodes:
        found.setdefault((episode.benchmark, episode.success), episode)
    return sorted(found.values(), key=lambda episode: (episode.benchmark, not episode.success))


def compared_pairs(params: Params) -> list[tuple[str, str]]:
    """Who is compared with whom: tuned models and endpoints with the baseline, tuned models with the base, all with
    chance. The first pair is the one that the report is about, where anything is tuned.
    """
    evaluation = params.evaluation
    tuned = [model for model in evaluation.models if model != BASE]
    models = [*evaluation.models, *evaluation.endpoints]
    pairs = [
        *((model, params.baseline) for model in (*tuned, *evaluation.endpoints)),
        *((model, BASE) for model in tuned),
        *((model, chance) for chance in evaluation.references for model in models),
    ]
    return list(dict.fromkeys(pair for pair in pairs if pair[0] != pair[1]))


def nobody_above_chance(
    models: Mapping[str, Mapping[str, BenchmarkSummary]], comparisons: Sequence[Comparison]
) -> list[str]:
    """The benchmarks on which no model is above chance.

    A model is above chance where the paired comparison with it says `better`, about success or about progress. Where
    chance has not played, it is above chance with any progress at all.
    """
    found = []
    for name in benchmarks(models):
        with_chance = [pair.is_ahead for pair in comparisons if pair.b == CHANCE and pair.benchmark == name]
        reached = [played[name].progress_rate.value for model, played in models.items() if name in played]
        if not any(with_chance or reached):
            found.append(name)
    return found


def _comparisons(project: Project, params: Params) -> list[Comparison]:
    played = {model: _by_benchmark(project.episodes(model)) for model in params.evaluation.players}
    return [
        compare(episodes, played[b][name])
        for a, b in compared_pairs(params)
        for name, episodes in played[a].items()
        if name in played[b]
    ]


def _by_benchmark(episodes: Iterable[Episode]) -> dict[str, list[Episode]]:
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.benchmark, []).append(episode)
    return groups


def read_result(path: Path, model: type[ModelT], stage: str) -> ModelT:
    """A small JSON file that a stage leaves, as a typed value.

    Raises:
        UserError: the file is missing or is not what the stage writes; names the file and the stage.
    """
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _missing(path, stage) from error
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)} Run the stage {stage} again.") from error


def _missing(path: Path, stage: str) -> UserError:
    return UserError(f"{path}: no such file; run the stage that writes it (`dvc repro {stage}`).")
