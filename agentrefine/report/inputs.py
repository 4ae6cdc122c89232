"""What the report reads: the small files that every stage leaves, as typed values."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

from agentrefine.evaluation.episodes import Episode, grouped
from agentrefine.evaluation.metrics import BenchmarkSummary, Comparison, compare
from agentrefine.evaluation.metrics.summary import BenchmarksPlayed, Seconds, Summaries
from agentrefine.evaluation.times import EpisodeTimes
from agentrefine.files import read_jsonl, read_result
from agentrefine.game.counts import MixCounts, OnPolicyCounts, RepairCounts, SynthesisCounts, VerificationCounts
from agentrefine.params import Params
from agentrefine.params.evaluation import CHANCE
from agentrefine.params.tuning import BASE
from agentrefine.quality.gate_result import GateResult
from agentrefine.report.timing import RESULTS, data_set_result, stage_seconds, tuning_result
from agentrefine.tuning.cards import BaseCard, GgufCard, ReferenceCard, TinyCard, TuningFigures, quantisation_of
from agentrefine.tuning.results import LossPoint, ValidationPoint, read_curve

FAULTY, SOUND = "worlds_faulty", "worlds_layouts"
"""Two benchmarks with the same worlds: their episodes of one id differ by the faults alone."""


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

    def times(self, model: str) -> Iterator[EpisodeTimes]:
        """The times of a model's episodes, as far as they were measured; none of an evaluation of before that.

        Raises:
            UserError: a line of the file is not an episode's times.
        """
        file = self.evaluation(model) / "turn_times.jsonl"
        return read_jsonl(file, EpisodeTimes) if file.exists() else iter(())

    def gate(self) -> GateResult:
        """The quality gate's result.

        Raises:
            UserError: the gate has not run or its file is broken.
        """
        return read_result(self.root / "reports" / "quality_gate" / "result.json", GateResult, "quality_gate")


class PlayTotals(NamedTuple):
    """All that a model played: `PlayTotals(episodes=242, prompt_tokens=187300, completion_tokens=94000, seconds=51.2)`.

    Attributes:
        episodes: those that a simulator failed in among them.
        prompt_tokens, completion_tokens: of all their turns, as the policy counts them.
        seconds: of all benchmarks together.
    """

    episodes: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Results:
    """All that the report shows.

    Attributes:
        synthesis, verification, repair: the data stages' counts.
        gate: the quality gate's result.
        mixes, on_policy: what the data sets of these stages hold, by name, as far as they are there.
        tuning: figures of each tuned variant.
        curves: the loss curve of each variant.
        validation_curves: the same of the validation samples; no points where a data set has none.
        models: what each evaluated model reached, by benchmark; chance first, endpoints last.
        played: what each of them played, all benchmarks together.
        seconds: wall-clock seconds per episode of each model, by benchmark.
        stage_seconds: wall-clock seconds of each stage before evaluation, by its address, such as `tuning@refinement`.
        baseline: the model that the tuned ones are compared with.
        comparisons: the pairs of `compared_pairs`, per benchmark.
        fault_losses: each model on the faulty worlds against itself on the same worlds without faults, where it has
            played both.
        at_chance: benchmarks on which nobody is above chance (docs/metrics.md), without the one that decides.
        agentboard: benchmarks that were played on AgentBoard's episodes.
        progress: what the progress rate measures, by benchmark.
        absent: why a benchmark was not played, by benchmark.
        quantisation: what the base's weights were dequantised from, if they were.
        pretraining_tokens: that the base was pretrained on here; None where it comes from elsewhere.
    """

    synthesis: SynthesisCounts
    verification: VerificationCounts
    repair: RepairCounts
    gate: GateResult
    mixes: dict[str, MixCounts]
    on_policy: dict[str, OnPolicyCounts]
    tuning: dict[str, TuningFigures]
    curves: dict[str, list[LossPoint]]
    validation_curves: dict[str, list[ValidationPoint]]
    models: dict[str, dict[str, BenchmarkSummary]]
    played: dict[str, PlayTotals]
    seconds: dict[str, dict[str, float]]
    stage_seconds: dict[str, float | Literal["unknown"]]
    baseline: str
    comparisons: list[Comparison]
    fault_losses: dict[str, Comparison]
    at_chance: list[str]
    agentboard: list[str]
    progress: dict[str, str]
    absent: dict[str, str]
    quantisation: str | None
    pretraining_tokens: int | None

    def against(self, model: str) -> list[Comparison]:
        """The comparisons of the others with a model."""
        return [found for found in self.comparisons if found.b == model]


def load_results(params: Params, project: Project) -> Results:
    """Read what the stages left, for the models and variants that params.yaml names.

    Raises:
        UserError: a file is missing or is not what its stage writes; names it.
    """
    data = project.root / "data"
    players = params.evaluation.players
    models = {model: model_summary(project, model) for model in players}
    episodes = {model: grouped(project.episodes(model), attrgetter("benchmark")) for model in players}
    comparisons = _comparisons(params, episodes)
    tunings = {model: project.tuning(model) for model in params.evaluation.models if model != BASE}
    notes = [read_result(project.evaluation(m) / "benchmarks.json", BenchmarksPlayed, "evaluation") for m in players]
    mixes = {name: data_set_result("mix", name) for name in params.mix}
    on_policy = {name: data_set_result("on_policy", name) for name in params.on_policy}
    timed = {
        **RESULTS,
        **{f"mix@{name}": result for name, result in mixes.items()},
        **{f"on_policy@{name}": result for name, result in on_policy.items()},
        **{f"tuning@{variant}": tuning_result(variant) for variant in tunings},
    }
    base = base_card(project)
    return Results(
        synthesis=read_result(data / "synthesis" / "metrics.json", SynthesisCounts, "synthesis"),
        verification=read_result(data / "verification" / "metrics.json", VerificationCounts, "verification"),
        repair=read_result(data / "repair" / "metrics.json", RepairCounts, "repair"),
        gate=project.gate(),
        mixes={
            name: read_result(project.root / file, MixCounts, f"mix@{name}")
            for name, file in mixes.items()
            if (project.root / file).is_file()
        },
        on_policy={
            name: read_result(project.root / file, OnPolicyCounts, f"on_policy@{name}")
            for name, file in on_policy.items()
            if (project.root / file).is_file()
        },
        tuning={v: read_result(folder / "metrics.json", TuningFigures, "tuning") for v, folder in tunings.items()},
        curves={v: read_curve(folder / "loss_curve.csv", LossPoint) for v, folder in tunings.items()},
        validation_curves={
            v: read_curve(folder / "validation_curve.csv", ValidationPoint) for v, folder in tunings.items()
        },
        models=models,
        played={model: _played(project, model, found) for model, found in episodes.items()},
        seconds={model: seconds_per_episode(project, model) for model in players},
        stage_seconds={address: stage_seconds(project.root, address, result) for address, result in timed.items()},
        baseline=params.baseline,
        comparisons=comparisons,
        fault_losses={m: fault_loss(found) for m, found in episodes.items() if {FAULTY, SOUND} <= found.keys()},
        at_chance=[
            name for name in nobody_above_chance(models, comparisons) if name != params.report.champion_benchmark
        ],
        agentboard=list(dict.fromkeys(name for found in notes for name in found.agentboard)),
        progress={name: measure for found in notes for name, measure in found.progress.items()},
        absent={name: reason for found in notes for name, reason in found.absent.items()},
        quantisation=quantisation_of(base),
        pretraining_tokens=base.tokens if isinstance(base, TinyCard) else None,
    )


def base_card(project: Project) -> TinyCard | ReferenceCard | GgufCard | None:
    """The card of the base; None where no base is here.

    Raises:
        UserError: the base's card is not what its stage writes.
    """
    card = project.root / "models" / BASE / "card.json"
    return read_result(card, BaseCard, "base_model").root if card.is_file() else None


def model_summary(project: Project, model: str) -> dict[str, BenchmarkSummary]:
    """What a model reached, by benchmark.

    Raises:
        UserError: the evaluation has not been run or its file is broken.
    """
    return read_result(project.evaluation(model) / "details.json", Summaries, "evaluation").root


def seconds_per_episode(project: Project, model: str) -> dict[str, float]:
    """Wall-clock seconds that a benchmark took over the episodes that were played, by benchmark.

    Episodes are played side by side, so this is what one of them costs and not how long it lasts (`Project.times`);
    it has no interval, because the episodes of a batch share the time.

    Raises:
        UserError: the evaluation has not been run or a file of it is broken.
    """
    seconds = read_result(project.evaluation(model) / "timing.json", Seconds, "evaluation").root
    played = {name: found.episodes + found.environment_errors for name, found in model_summary(project, model).items()}
    return {name: seconds[name] / number for name, number in played.items() if name in seconds}


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
        ahead = [pair.is_ahead for pair in comparisons if pair.b == CHANCE and pair.benchmark == name]
        reached = [played[name].progress_rate.value for played in models.values() if name in played]
        if not any(ahead or reached):
            found.append(name)
    return found


def fault_loss(episodes: Mapping[str, Sequence[Episode]]) -> Comparison:
    """A model on the faulty worlds (`a`) against itself on the same worlds without faults (`b`), world by world.

    `episodes` are the model's, by benchmark.
    """
    return compare(episodes[FAULTY], (episode.model_copy(update={"benchmark": FAULTY}) for episode in episodes[SOUND]))


def _comparisons(params: Params, episodes: Mapping[str, Mapping[str, Sequence[Episode]]]) -> list[Comparison]:
    return [
        compare(played, episodes[b][name])
        for a, b in compared_pairs(params)
        for name, played in episodes[a].items()
        if name in episodes[b]
    ]


def _played(project: Project, model: str, episodes: Mapping[str, Sequence[Episode]]) -> PlayTotals:
    """What a model played, added up over the benchmarks."""
    found = [episode for played in episodes.values() for episode in played]
    seconds = read_result(project.evaluation(model) / "timing.json", Seconds, "evaluation").root
    return PlayTotals(
        len(found),
        sum(episode.prompt_tokens for episode in found),
        sum(episode.completion_tokens for episode in found),
        sum(seconds.values()),
    )
