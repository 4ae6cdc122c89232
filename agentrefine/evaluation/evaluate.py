"""One benchmark played by one policy: which episodes, by which rules, and what was played before."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel

from agentrefine.benchmarks.agentboard.benchmark import STEPS, AgentBoard
from agentrefine.benchmarks.alfworld.benchmark import alfworld_folder
from agentrefine.benchmarks.base import Benchmark, EpisodeSpec
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.evaluation.episodes import Episode, EpisodeJournal
from agentrefine.evaluation.metrics.summary import BenchmarksPlayed
from agentrefine.evaluation.policy import Policy
from agentrefine.evaluation.rollout import play
from agentrefine.evaluation.times import Times
from agentrefine.files import short_hash
from agentrefine.params.evaluation import BenchmarkData, EvaluationParams, Prompting, Sampling


class Rules(BaseModel, frozen=True):
    """The settings of `evaluation` that decide how a benchmark is played, and only those: they name the journal.

    Attributes:
        simulators: which simulators are installed (`tasks/playing.py`); the others are those of `EvaluationParams`.
    """

    data: BenchmarkData
    episodes: int
    simulator_episodes: int
    attempts: int
    max_steps: int
    stop_on_repeats: int | None
    prompting: Prompting
    sampling: Sampling
    max_new_tokens: int
    batch_size: int
    simulators: dict[str, str | None]

    @classmethod
    def of(cls, params: EvaluationParams, simulators: dict[str, str | None]) -> Self:
        """The rules in params.yaml. ALFWorld's own variable counts as named here: another folder is other rules."""
        own = {name: value for name, value in params if name in cls.model_fields}
        own["data"] = params.data.model_copy(update={"alfworld": alfworld_folder(params.data)})
        return cls(**own, simulators=simulators)

    def episodes_of(self, benchmark: Benchmark, seed: int) -> list[EpisodeSpec]:
        """The episodes to be played, each as often as there are attempts."""
        simulated = isinstance(benchmark, SimulatorBenchmark)
        drawn = benchmark.episodes(self.simulator_episodes if simulated else self.episodes, seed)
        return [spec.model_copy(update={"attempt": attempt}) for attempt in range(self.attempts) for spec in drawn]


def journal_file(folder: Path, model: str, benchmark: str, *decides: str) -> Path:
    """The journal of a model's episodes on a benchmark, named after all that decides how they are played."""
    return folder / f"{model}.{benchmark}.{short_hash(*decides)}.jsonl"


def play_benchmark(
    benchmark: Benchmark,
    policy: Policy,
    specs: Sequence[EpisodeSpec],
    journal: EpisodeJournal,
    rules: Rules,
    *,
    at_once: int,
    digest: str,
) -> Iterator[Episode]:
    """Play the episodes of a benchmark that the journal does not hold as finished; yield each when it is on disk.

    Args:
        benchmark, policy, specs: what is played, by whom, and which episodes of it.
        journal: what was played before; every episode is added to it, with its times.
        rules: how they are played.
        at_once: how many episodes.
        digest: what identifies the model, for the record.

    Raises:
        UserError: the disk is full, or an endpoint refuses a call for good.
        UnlistedActionsError: chance cannot play this benchmark.
    """
    known = journal.finished()
    times: Times = {}
    for episode in play(
        policy,
        benchmark,
        [spec for spec in specs if (spec.id, spec.attempt) not in known],
        max_steps=STEPS if isinstance(benchmark, AgentBoard) else rules.max_steps,
        batch_size=at_once,
        stop_on_repeats=rules.stop_on_repeats,
        prompting=rules.prompting,
        model_digest=digest,
        times=times,
    ):
        journal.add(episode, times[episode.id, episode.attempt])
        yield episode


def in_order(specs: Sequence[EpisodeSpec], journal: EpisodeJournal) -> list[Episode]:
    """The journal's episodes in the order of their specifications; of one that was played again the last play."""
    played = {(episode.id, episode.attempt): episode for episode in journal.episodes}
    return [played[spec.id, spec.attempt] for spec in specs]


def benchmarks_played(played: Mapping[str, Benchmark], absent: dict[str, str]) -> BenchmarksPlayed:
    """The record of the benchmarks that were played, and of why the others were not."""
    return BenchmarksPlayed(
        progress={name: benchmark.progress_definition for name, benchmark in played.items()},
        absent=absent,
        agentboard=[name for name, benchmark in played.items() if isinstance(benchmark, AgentBoard)],
    )
