"""What one model reached on each benchmark: every metric with its interval, its breakdowns, and the files of both."""

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import comb
from pathlib import Path
from statistics import stdev

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, RootModel

from agentrefine.evaluation.episodes import Episode, grouped, repeats
from agentrefine.evaluation.metrics.diversity import ThoughtDiversity, thought_diversity
from agentrefine.evaluation.metrics.rates import NOTHING, Curve, Rate, curve, episode_share, mean, ratio
from agentrefine.evaluation.metrics.recovery import recovery
from agentrefine.evaluation.times import EpisodeTimes
from agentrefine.files import write_json, write_jsonl

STUCK_REPEATS = 3
"""From so many equal failing actions, or equal malformed replies, on an episode counts as stuck."""


class OutcomeRates(BaseModel, frozen=True):
    """Success and progress of some of a benchmark's episodes.

    Example: `{"success_rate": {"value": 0.5, ...}, "progress_rate": {"value": 0.62, ...}}`
    """

    success_rate: Rate
    progress_rate: Rate


class Robustness(BaseModel, frozen=True, populate_by_name=True, serialize_by_alias=True):
    """How much success and progress depend on how the actions are perturbed (paper, robustness study).

    Example: `{"worlds": 10, "wordings": {"short": {"success_rate": ...}}, "mean": ..., "success_std": 0.1, ...}`

    Attributes:
        worlds: worlds that were played with every perturbation; the others are left out here.
        perturbations: what was reached with each on these worlds; `wordings` in files.
        mean: the mean of the perturbations' rates. Its interval draws worlds with all their perturbations.
        success_std, progress_std: sample standard deviation (over k - 1) of the k perturbations' rates, in [0, 1]; None
            for one perturbation. It has no interval.
    """

    worlds: int
    perturbations: dict[str, OutcomeRates] = Field(alias="wordings")
    mean: OutcomeRates
    success_std: float | None
    progress_std: float | None


class BenchmarkSummary(BaseModel, frozen=True):
    """What one model reached on one benchmark. docs/metrics.md defines every rate.

    An episode that ended by an environment error says nothing of the model: it is in `environment_errors` and `stops`,
    and in nothing else. One that ended by a full context counts as it stood then.

    What has a default is empty in files that were written before it was measured.

    Example: `{"episodes": 50, "attempts": 1, "success_rate": {"value": 0.42, ...}, "stops": {"solved": 21, ...}, ...}`

    Attributes:
        episodes: episodes that are counted, each attempt as one.
        attempts: most attempts at one episode.
        environment_errors: episodes that the simulator failed in.
        success_at_n: share of episodes that any attempt solved (pass@n of n attempts); None where each was tried once.
        success_in_all_n: share of episodes that every attempt solved (pass^n); None where each was tried once.
        success_in_all_k: the chance that k attempts at an episode all solve it (pass^k), for k = 1, ..., n; empty where
            each was tried once.
        recovery_by_kind: `recovery_rate` after each kind of error that was made.
        robustness: of a benchmark that plays the same worlds with several perturbations; else None.
        stops: episodes by why they ended.
        episodes_with_cut_history: episodes in which the model did not read all of its history.
        by_task, by_difficulty: success and progress; empty where there is only one.
        success_by_step: share of the episodes that were solved after 0, 1, 2, ... steps.
        progress_by_step: mean progress after so many; an episode that has ended keeps its progress.
        fault_rate: share of steps that the world failed although the action was possible; None, and not written, where
            no step was.
        retry_rate: share of these faults after which the very next turn takes the same action; None like `fault_rate`.
    """

    episodes: int
    attempts: int
    environment_errors: int
    success_rate: Rate
    success_at_n: Rate | None
    success_in_all_n: Rate | None = None
    success_in_all_k: list[Rate] = []
    progress_rate: Rate
    grounding: Rate
    grounding_per_episode: Rate
    format_error_rate: Rate
    stuck_rate: Rate
    recovery_rate: Rate
    recovery_within_3: Rate = NOTHING
    turns_to_recover: Rate = NOTHING
    repeat_rate: Rate = NOTHING
    recovery_by_kind: dict[str, Rate] = {}
    mean_steps: Rate
    mean_prompt_tokens: Rate
    mean_completion_tokens: Rate
    thoughts: ThoughtDiversity
    robustness: Robustness | None
    stops: dict[str, int]
    episodes_with_cut_history: int
    by_task: dict[str, OutcomeRates]
    by_difficulty: dict[str, OutcomeRates]
    success_by_step: Curve
    progress_by_step: Curve
    fault_rate: Rate | None = Field(default=None, exclude_if=operator.not_)
    retry_rate: Rate | None = Field(default=None, exclude_if=operator.not_)

    def rates(self) -> dict[str, Rate]:
        """What has an interval, by its name."""
        rates = {name: value for name, value in self if isinstance(value, Rate)}
        rates["thoughts_self_bleu"] = self.thoughts.self_bleu
        if self.robustness:
            rates["wordings_success_mean"] = self.robustness.mean.success_rate
            rates["wordings_progress_mean"] = self.robustness.mean.progress_rate
        return rates

    def figures(self) -> dict[str, float]:
        """What has none, by its name; without what was not measured."""
        figures: dict[str, float | None] = {
            "episodes": self.episodes,
            "environment_errors": self.environment_errors,
            "thoughts_distinct_1": self.thoughts.distinct_1,
            "thoughts_distinct_2": self.thoughts.distinct_2,
            "thoughts_distinct_3": self.thoughts.distinct_3,
        }
        if self.robustness:
            figures["wordings_success_std"] = self.robustness.success_std
            figures["wordings_progress_std"] = self.robustness.progress_std
        return {name: value for name, value in figures.items() if value is not None}


class Summaries(RootModel[dict[str, BenchmarkSummary]]):
    """details.json: a model's summary by benchmark, `{"babyai": {"episodes": 50, "success_rate": {...}, ...}}`."""


class Seconds(RootModel[dict[str, float]]):
    """timing.json: wall-clock seconds that all episodes of a benchmark took together, `{"babyai": 31.4}`."""


class BenchmarksPlayed(BaseModel, frozen=True):
    """benchmarks.json: which benchmarks were played.

    Example: `{"progress": {"babyai": "share of sub-goals"}, "absent": {"jericho": "..."}, "agentboard": []}`

    Attributes:
        progress: what the progress rate measures in each of them, in words.
        absent: why the others were not played.
        agentboard: those whose episodes and labels are AgentBoard's.
    """

    progress: dict[str, str]
    absent: dict[str, str]
    agentboard: list[str]


def write_evaluation(
    folder: Path,
    episodes: Iterable[Episode],
    benchmarks: BenchmarksPlayed,
    seconds: Mapping[str, float],
    times: Iterable[EpisodeTimes],
) -> Summaries:
    """Write all files of an evaluation and return the summaries.

    Args:
        folder: `data/evaluation/<model>`.
        episodes: all that were played.
        benchmarks: those played, and those not.
        seconds: how long each of them took.
        times: those of the episodes, as far as they were measured.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    played = list(episodes)
    write_jsonl(folder / "episodes.jsonl", played)
    write_json(folder / "benchmarks.json", benchmarks.model_dump())
    write_json(folder / "timing.json", Seconds({name: round(value, 1) for name, value in seconds.items()}).model_dump())
    write_jsonl(folder / "turn_times.jsonl", times)
    return write_summaries(folder, summarise(played))


def write_summaries(folder: Path, summaries: dict[str, BenchmarkSummary]) -> Summaries:
    """Write `details.json`, which holds all, and `metrics.json`, the success rates, of which DVC makes a table.

    Example of metrics.json: `{"worlds_layouts": 0.8, "babyai": 0.42}`
    """
    details = Summaries(summaries)
    write_json(folder / "details.json", details.model_dump())
    write_json(folder / "metrics.json", {name: summary.success_rate.value for name, summary in summaries.items()})
    return details


def summarise(episodes: Iterable[Episode]) -> dict[str, BenchmarkSummary]:
    """The metrics of one model by benchmark, in the order in which the benchmarks were played."""
    return {name: _summary(played) for name, played in grouped(episodes, lambda e: e.benchmark).items()}


def _summary(played: Sequence[Episode]) -> BenchmarkSummary:
    episodes = [episode for episode in played if episode.is_evidence]
    moved = [episode for episode in episodes if episode.steps]
    clusters = [episode.cluster for episode in episodes]
    steps = [len(episode.steps) for episode in episodes]
    recovered = recovery(episodes)
    faults = [sum(step.fault for step in episode.steps) for episode in episodes]
    retries = [_retries(episode) for episode in episodes]
    reached = outcome(episodes)
    attempts = list(grouped(episodes, lambda e: e.id).values())
    solved_ever = episode_share(
        [any(e.success for e in plays) for plays in attempts], [plays[0].cluster for plays in attempts]
    )
    most_attempts = len({episode.attempt for episode in played})
    again = any(episode.attempt for episode in played)
    solved_in_all = [_solved_in_all(attempts, k) for k in range(1, most_attempts + 1)] if again else []
    # An episode is over as soon as it is solved, so only its last step can have solved it.
    solved = [[0.0] * (len(e.steps) - 1) + [float(e.success)] if e.steps else [] for e in episodes]
    return BenchmarkSummary(
        episodes=len(episodes),
        attempts=most_attempts,
        environment_errors=len(played) - len(episodes),
        success_rate=reached.success_rate,
        success_at_n=solved_ever if again else None,
        success_in_all_n=solved_in_all[-1] if again else None,
        success_in_all_k=solved_in_all,
        progress_rate=reached.progress_rate,
        grounding=ratio([sum(s.valid for s in e.steps) for e in episodes], steps, clusters),
        grounding_per_episode=ratio(
            [sum(s.valid for s in e.steps) / len(e.steps) for e in moved], [1] * len(moved), [e.cluster for e in moved]
        ),
        format_error_rate=ratio([sum(s.format_error for s in e.steps) for e in episodes], steps, clusters),
        stuck_rate=episode_share([is_stuck(episode) for episode in episodes], clusters),
        recovery_rate=recovered.at_once,
        recovery_within_3=recovered.within_3,
        turns_to_recover=recovered.turns,
        repeat_rate=recovered.repeats,
        recovery_by_kind=recovered.by_kind,
        mean_steps=mean(steps, clusters),
        mean_prompt_tokens=mean([episode.prompt_tokens for episode in episodes], clusters),
        mean_completion_tokens=mean([episode.completion_tokens for episode in episodes], clusters),
        thoughts=thought_diversity(episodes),
        robustness=_robustness(episodes),
        stops=dict(sorted(Counter(episode.stop for episode in played).items())),
        episodes_with_cut_history=sum(any(s.turns_cut for s in e.steps) for e in episodes),
        by_task=_breakdown(episodes, lambda episode: episode.task),
        by_difficulty=_breakdown(episodes, lambda episode: episode.difficulty),
        success_by_step=curve(_by_step(solved), clusters),
        progress_by_step=curve(_by_step([[step.progress for step in e.steps] for e in episodes]), clusters),
        fault_rate=ratio(faults, steps, clusters) if any(faults) else None,
        retry_rate=ratio([sum(f) for f in retries], [len(f) for f in retries], clusters) if any(faults) else None,
    )


def outcome(episodes: Sequence[Episode]) -> OutcomeRates:
    """Success and progress of episodes."""
    clusters = [episode.cluster for episode in episodes]
    return OutcomeRates(
        success_rate=episode_share([episode.success for episode in episodes], clusters),
        progress_rate=ratio([episode.progress for episode in episodes], [1] * len(episodes), clusters),
    )


def is_stuck(episode: Episode) -> bool:
    """Whether the episode holds the same failing action, or the same malformed reply, three times or more."""
    return repeats(episode.steps) >= STUCK_REPEATS


def _breakdown(episodes: Sequence[Episode], label: Callable[[Episode], str]) -> dict[str, OutcomeRates]:
    groups = grouped(episodes, label)
    return {name: outcome(groups[name]) for name in sorted(groups)} if len(groups) > 1 else {}


def _robustness(episodes: Sequence[Episode]) -> Robustness | None:
    """Perturbations compared on the same worlds; None without any, or where no world was played with all of them."""
    names = {episode.perturbation for episode in episodes if episode.perturbation}
    by_world = grouped(episodes, lambda e: e.cluster)
    worlds = {world for world, plays in by_world.items() if names <= {play.perturbation for play in plays}}
    if not names or not worlds:
        return None
    kept = [episode for episode in episodes if episode.cluster in worlds]
    reached = {name: outcome([episode for episode in kept if episode.perturbation == name]) for name in sorted(names)}

    def deviation(rates: Iterable[Rate]) -> float | None:
        values = [rate.value for rate in rates if rate.value is not None]
        return stdev(values) if len(values) > 1 else None

    return Robustness(
        worlds=len(worlds),
        perturbations=reached,
        mean=outcome(kept),
        success_std=deviation(found.success_rate for found in reached.values()),
        progress_std=deviation(found.progress_rate for found in reached.values()),
    )


def _solved_in_all(attempts: Sequence[Sequence[Episode]], k: int) -> Rate:
    """The share of episodes that k attempts at them all solve: the mean of C(solved, k) / C(attempts, k).

    Each sequence is what was played of one episode. One with fewer than k attempts, because a simulator failed in the
    others, is left out.
    """
    tried = [plays for plays in attempts if len(plays) >= k]
    clusters = [plays[0].cluster for plays in tried]
    shares = [comb(sum(e.success for e in plays), k) / comb(len(plays), k) for plays in tried]
    if all(len(plays) == k for plays in tried):
        return episode_share([share == 1 for share in shares], clusters)
    return ratio(shares, [1] * len(tried), clusters)


def _retries(episode: Episode) -> list[bool]:
    """For each fault of the world that was followed by another turn: whether that turn takes the same action."""
    return [after.action == before.action for before, after in pairwise(episode.steps) if before.fault]


def _by_step(reached: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """What each episode had reached after 0, 1, 2, ... steps; what has ended keeps it. Shape [episodes, steps + 1]."""
    longest = max(map(len, reached), default=0)
    rows = [[0.0, *values] + [values[-1] if values else 0.0] * (longest - len(values)) for values in reached]
    return np.array(rows).reshape(len(reached), longest + 1)
