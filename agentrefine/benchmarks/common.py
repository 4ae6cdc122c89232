"""What benchmarks share: how episodes are drawn, what is installed, and the texts of their data files."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import cycle, islice, zip_longest
from random import Random
from string import Template
from types import ModuleType
from typing import Any, Protocol, TypeVar

import yaml

from agentrefine.benchmarks.base import Benchmark, EpisodeSpec
from agentrefine.errors import NotInstalledError
from agentrefine.files import packaged_text, short_hash

LISTING = "check available actions"
"""The agent's question for what it can do now; it costs a step."""

CHECK = "check valid actions"
"""AgentBoard's words for it."""

ItemT = TypeVar("ItemT")
_GAMES = 1_000_000


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
    message = f"the benchmark {benchmark} needs the package {package}: pip install '{requirement}'."
    return NotInstalledError("not_installed", message, benchmark=benchmark, name=package, requirement=requirement)


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
