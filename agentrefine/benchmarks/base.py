"""The contract between benchmarks and the agent that plays them, and what the benchmarks share."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import cycle, islice, zip_longest
from random import Random
from string import Template
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict

from agentrefine.errors import NotInstalledError
from agentrefine.files import packaged_text, short_hash

LISTING = "check available actions"
"""The agent's question for what it can do now; it costs a step."""

CHECK = "check valid actions"
"""AgentBoard's words for it."""

_GAMES = 1_000_000
ItemT = TypeVar("ItemT")


class SimulatorError(Exception):
    """A simulator died or stopped answering: the episode ends as an environment error, the others play on."""


class NoSolutionError(Exception):
    """A benchmark has no solution of an episode; the message says why."""


class UnlistedActionsError(Exception):
    """A simulator does not list the actions that are possible; the message says why."""


class EpisodeSpec(BaseModel):
    """Everything that is needed to make one episode again.

    Attributes:
        id: unique within the benchmark; the same episode has the same id for every model, so results can be paired.
        benchmark: the benchmark's name.
        task: the task type (a family, a level), for breakdowns and clusters.
        seed: the layout's seed.
        variant: what else identifies it, such as a theme; empty when nothing does.
        difficulty: `easy`, `hard`, or empty where the benchmark does not say.
        wording: the perturbation of the actions, where the same world is played with several to see how robust a model
            is; `id` is then the world's, a slash and the perturbation. Empty elsewhere.
        attempt: which of several plays of the same episode; they differ where replies are drawn by chance.

    Example: {"id": "babyai.GoToRedBall.1234", "benchmark": "babyai", "task": "GoToRedBall", "seed": 1234, ...}
    """

    model_config = ConfigDict(frozen=True)

    id: str
    benchmark: str
    task: str
    seed: int
    variant: str = ""
    difficulty: str = ""
    wording: str = ""
    attempt: int = 0

    @property
    def key(self) -> str:
        """Identifies the play in one run."""
        return f"{self.id}#{self.attempt}" if self.attempt else self.id


class StepResult(NamedTuple):
    """What the environment answers to one action.

    Attributes:
        observation: what the agent sees next.
        progress: best share of sub-goals reached so far, in [0, 1].
        success: the goal is fully reached.
        done: the episode is over, whether solved or not.
        valid: the action was known, well-formed and possible now (AgentBoard's grounding).
    """

    observation: str
    progress: float
    success: bool
    done: bool
    valid: bool


class Environment(Protocol):
    """One running episode."""

    @property
    def goal(self) -> str:
        """The task in words; known after `reset`."""
        ...

    @property
    def actions(self) -> Mapping[str, str]:
        """The templates of all actions, each with what it does; known after `reset`."""
        ...

    def reset(self) -> str:
        """Start the episode and return the first observation.

        Raises:
            SimulatorError: the simulator cannot start it.
        """
        ...

    def step(self, action: str) -> StepResult:
        """Take one action. Any text is answered with an observation; no text raises.

        Raises:
            SimulatorError: the simulator died or stopped answering.
        """
        ...

    def possible(self) -> list[str]:
        """Actions that are possible now, as an agent writes them; the agent does not see them. It changes nothing.

        Raises:
            UnlistedActionsError: the simulator does not list them.
            SimulatorError: the simulator died or stopped answering.
        """
        ...

    def close(self) -> None:
        """Free what the episode holds."""
        ...


class Benchmark(Protocol):
    """A set of episodes.

    Attributes:
        name: as in `evaluation.benchmarks` of params.yaml.
        progress_definition: in words, what the progress rate measures here.
    """

    name: str
    progress_definition: str

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` episodes, the same ones for the same seed, spread over the task types.

        Raises:
            UserError: a package or data folder is missing; names it and how to install it.
        """
        ...

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        ...

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """Actions that solve the episode.

        Raises:
            NoSolutionError: the benchmark has none.
        """
        ...


class DrawnBenchmark(Benchmark, Protocol):
    """A benchmark whose episodes are drawn one after the other, so that fewer are the first of more."""

    def check_installed(self) -> None:
        """Make sure that the packages of the benchmark are installed; without more, it needs none.

        Raises:
            NotInstalledError: one is missing; says how to install it.
        """
        return

    def drawn(self, seed: int) -> Iterable[EpisodeSpec]:
        """The episodes, spread over the task types, in the order that the seed gives; there may be no end."""
        ...

    def episodes(self, limit: int, seed: int) -> list[EpisodeSpec]:
        """At most `limit` episodes, the same ones for the same seed, spread over the task types."""
        self.check_installed()
        return list(islice(self.drawn(seed), limit))


def drawn_games(benchmark: str, tasks: Iterable[str], seed: int) -> Iterator[EpisodeSpec]:
    """Games that are made from a task and a number: one of each task in turn, without end and each only once."""
    rng = rng_of("episodes", benchmark, seed)
    seen: set[str] = set()
    for task in cycle(tasks):
        game = rng.randrange(_GAMES)
        name = f"{benchmark}.{task}.{game}"
        if name not in seen:
            seen.add(name)
            yield EpisodeSpec(id=name, benchmark=benchmark, task=task, seed=game)


def round_robin(groups: Iterable[Iterable[ItemT]]) -> Iterator[ItemT]:
    """The first item of each group, then the second of each, and so on; groups may differ in length."""
    return (item for turn in zip_longest(*groups) for item in turn if item is not None)


def not_installed(benchmark: str, package: str, requirement: str = "agentrefine[benchmarks]") -> NotInstalledError:
    """The error that a benchmark's package is missing; `requirement` is what pip has to install."""
    return NotInstalledError(
        "not_installed",
        f"the benchmark {benchmark} needs the package {package}: pip install '{requirement}'.",
        benchmark=benchmark,
        name=package,
    )


def imported(benchmark: str, package: str, *modules: str, requirement: str = "agentrefine[benchmarks]") -> ModuleType:
    """The first of a package's modules, with all of them imported.

    Raises:
        NotInstalledError: the package is not installed.
    """
    try:
        first, *_ = map(import_module, modules)
    except ImportError as error:
        raise not_installed(benchmark, package, requirement) from error
    return first


def data_of(benchmark: str, name: str) -> dict[str, Any]:
    """A data file of a benchmark's package."""
    data: dict[str, Any] = yaml.safe_load(packaged_text("agentrefine.benchmarks", benchmark, name))
    return data


def filled(text: str, /, **values: object) -> str:
    """A text of a data file with its values in place of `$name`."""
    return Template(text).substitute(values)


def rng_of(*parts: object) -> Random:
    """A random generator that is the same for the same parts, on every machine."""
    return Random(int(short_hash(*map(str, parts)), 16))
