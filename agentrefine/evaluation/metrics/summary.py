"""What one model reached on each benchmark: every metric with its interval, and its breakdowns."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from agentrefine.evaluation.episodes import Episode, repeats
from agentrefine.evaluation.metrics.diversity import ThoughtDiversity, thought_diversity
from agentrefine.evaluation.metrics.perturbation import OutcomeRates, Robustness, outcome, robustness
from agentrefine.evaluation.metrics.rates import Curve, Rate, curve, mean, ratio, share

STUCK_REPEATS = 3


class BenchmarkSummary(BaseModel):
    """What one model reached on one benchmark. docs/metrics.md defines every rate.

    An episode that ended by an environment error says nothing of the model: it is in `environment_errors` and `stops`,
    and in nothing else. One that ended by a full context counts as it stood then.

    Attributes:
        episodes: episodes that are counted, each attempt as one.
        attempts: most attempts at one episode.
        environment_errors: episodes that the simulator failed in.
        success_at_n: share of episodes that one attempt at least has solved; None where each was tried once.
        robustness: of a benchmark that plays the same worlds in several wordings; else None.
        stops: episodes by why they ended.
        episodes_with_cut_history: episodes in which the model did not read all of its history.
        by_task, by_difficulty: success and progress; empty where there is only one.
        success_by_step: share of the episodes that were solved after 0, 1, 2, ... steps.
        progress_by_step: mean progress after so many; an episode that has ended keeps its progress.
    """

    model_config = ConfigDict(frozen=True)

    episodes: int
    attempts: int
    environment_errors: int
    success_rate: Rate
    success_at_n: Rate | None
    progress_rate: Rate
    grounding: Rate
    grounding_per_episode: Rate
    format_error_rate: Rate
    stuck_rate: Rate
    recovery_rate: Rate
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

    def rates(self) -> dict[str, Rate]:
        """What has an interval, by its name."""
        own = {name: value for name, value in self if isinstance(value, Rate)}
        reworded = self.robustness
        return {
            **own,
            "thoughts_self_bleu": self.thoughts.self_bleu,
            **({} if reworded is None else {"wordings_success_mean": reworded.mean.success_rate}),
            **({} if reworded is None else {"wordings_progress_mean": reworded.mean.progress_rate}),
        }

    def figures(self) -> dict[str, float]:
        """What has none, by its name; without what was not measured."""
        reworded = self.robustness
        figures = {
            "episodes": self.episodes,
            "environment_errors": self.environment_errors,
            "thoughts_distinct_1": self.thoughts.distinct_1,
            "thoughts_distinct_2": self.thoughts.distinct_2,
            "thoughts_distinct_3": self.thoughts.distinct_3,
            "wordings_success_std": None if reworded is None else reworded.success_std,
            "wordings_progress_std": None if reworded is None else reworded.progress_std,
        }
        return {name: value for name, value in figures.items() if value is not None}

    def values(self) -> dict[str, float]:
        """One number for each of them, without what was not measured."""
        return {name: rate.value for name, rate in self.rates().items() if rate.value is not None} | self.figures()


def summarise(episodes: Iterable[Episode]) -> dict[str, BenchmarkSummary]:
    """The metrics of one model by benchmark, in the order in which the benchmarks were played."""
    by_benchmark: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_benchmark.setdefault(episode.benchmark, []).append(episode)
    return {name: _summary(played) for name, played in by_benchmark.items()}


def _summary(played: Sequence[Episode]) -> BenchmarkSummary:
    episodes = [episode for episode in played if episode.is_evidence]
    clusters = [episode.cluster for episode in episodes]
    steps = [len(episode.steps) for episode in episodes]
    chances = [_recovery_chances(episode) for episode in episodes]
    reached = outcome(episodes)
    return BenchmarkSummary(
        episodes=len(episodes),
        attempts=len({episode.attempt for episode in played}),
        environment_errors=len(played) - len(episodes),
        success_rate=reached.success_rate,
        success_at_n=_success_at_n(episodes) if any(episode.attempt for episode in played) else None,
        progress_rate=reached.progress_rate,
        grounding=ratio([sum(s.valid for s in e.steps) for e in episodes], steps, clusters),
        grounding_per_episode=ratio(
            [sum(s.valid for s in e.steps) / len(e.steps) for e in episodes if e.steps],
            [1 for e in episodes if e.steps],
            [e.cluster for e in episodes if e.steps],
        ),
        format_error_rate=ratio([sum(s.format_error for s in e.steps) for e in episodes], steps, clusters),
        stuck_rate=share([is_stuck(episode) for episode in episodes], clusters),
        recovery_rate=ratio([sum(c) for c in chances], [len(c) for c in chances], clusters),
        mean_steps=mean(steps, clusters),
        mean_prompt_tokens=mean([episode.prompt_tokens for episode in episodes], clusters),
        mean_completion_tokens=mean([episode.completion_tokens for episode in episodes], clusters),
        thoughts=thought_diversity(episodes),
        robustness=robustness(episodes),
        stops=dict(sorted(Counter(episode.stop for episode in played).items())),
        episodes_with_cut_history=sum(any(s.turns_cut for s in e.steps) for e in episodes),
        by_task=_breakdown(episodes, lambda episode: episode.task),
        by_difficulty=_breakdown(episodes, lambda episode: episode.difficulty),
        success_by_step=curve(_by_step(episodes, _solved_after), clusters),
        progress_by_step=curve(_by_step(episodes, _progress_after), clusters),
    )


def _success_at_n(episodes: Sequence[Episode]) -> Rate:
    """Share of episodes that any of their attempts solved (pass@n with n attempts)."""
    solved: dict[str, list[Episode]] = {}
    for episode in episodes:
        solved.setdefault(episode.id, []).append(episode)
    attempts = list(solved.values())
    return share([any(e.success for e in of_one) for of_one in attempts], [of_one[0].cluster for of_one in attempts])


def _breakdown(episodes: Sequence[Episode], label: Callable[[Episode], str]) -> dict[str, OutcomeRates]:
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(label(episode), []).append(episode)
    return {name: outcome(groups[name]) for name in sorted(groups)} if len(groups) > 1 else {}


def is_stuck(episode: Episode) -> bool:
    """Whether the episode holds the same failing action, or the same malformed reply, three times or more."""
    return repeats(episode.steps) >= STUCK_REPEATS


def _recovery_chances(episode: Episode) -> list[bool]:
    """For each error that was followed by another turn: whether that turn was valid and different."""
    return [after.valid and after.action != before.action for before, after in pairwise(episode.steps) if before.failed]


def _by_step(episodes: Sequence[Episode], after: Callable[[Episode], list[float]]) -> NDArray[np.float64]:
    """What each episode had reached after 0, 1, 2, ... steps; what has ended keeps it. Shape [episodes, steps + 1]."""
    longest = max((len(episode.steps) for episode in episodes), default=0)
    rows = np.zeros((len(episodes), longest + 1))
    for row, episode in enumerate(episodes):
        for column, reached in enumerate(after(episode), start=1):
            rows[row, column:] = reached
    return rows


def _progress_after(episode: Episode) -> list[float]:
    return [step.progress for step in episode.steps]


def _solved_after(episode: Episode) -> list[float]:
    """An episode is over as soon as it is solved, so only its last step can have solved it."""
    return [0.0] * (len(episode.steps) - 1) + [float(episode.success)] if episode.steps else []
