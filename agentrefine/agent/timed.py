"""A benchmark that is timed while it is played: its open environments are at hand, and how long they took."""

import time
from collections.abc import Mapping, Sequence

from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, StepResult


class TimedEnvironment:
    """An environment with the time that it took.

    Attributes:
        start_seconds: of making and resetting it.
        step_seconds: of all its steps.
    """

    def __init__(self, environment: Environment, making_seconds: float) -> None:
        self._environment = environment
        self.start_seconds = making_seconds
        self.step_seconds = 0.0

    @property
    def goal(self) -> str:
        """The task in words."""
        return self._environment.goal

    @property
    def actions(self) -> Mapping[str, str]:
        """Templates and meanings of the actions."""
        return self._environment.actions

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        began = time.perf_counter()
        observation = self._environment.reset()
        self.start_seconds += time.perf_counter() - began
        return observation

    def step(self, action: str) -> StepResult:
        """Take one action."""
        began = time.perf_counter()
        result = self._environment.step(action)
        self.step_seconds += time.perf_counter() - began
        return result

    def possible(self) -> list[str]:
        """Actions that are possible now; the search for them is no part of a step's time."""
        return self._environment.possible()

    def close(self) -> None:
        """Free what the episode holds."""
        self._environment.close()


class TimedBenchmark:
    """A benchmark that keeps the environments it made.

    Attributes:
        environments: by the episode's key, the last that was made for it.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        self.name = benchmark.name
        self.progress_definition = benchmark.progress_definition
        self.environments: dict[str, TimedEnvironment] = {}
        self._benchmark = benchmark

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """The benchmark's episodes."""
        return self._benchmark.episodes(limit, seed)

    def make(self, episode: EpisodeSpec) -> TimedEnvironment:
        """The environment of one episode, kept."""
        began = time.perf_counter()
        environment = self._benchmark.make(episode)
        self.environments[episode.key] = TimedEnvironment(environment, time.perf_counter() - began)
        return self.environments[episode.key]

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The benchmark's solution."""
        return self._benchmark.gold(episode)
