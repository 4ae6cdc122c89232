"""What the benchmarks on installed simulators share: workers, data files, the form of an action."""

import importlib.util
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, zip_longest
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import yaml

from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec
from agentrefine.benchmarks.worker import Limits, RemoteEnvironment, Workers
from agentrefine.errors import package_missing
from agentrefine.files import packaged_text, short_hash

MAX_ACTION = 200
"""The most characters of an action that a simulator gets to see."""

LISTING = "check available actions"
"""The agent's question for what it can do now; it costs a step."""

CHECK = "check valid actions"
"""AgentBoard's words for it."""

GIB = 2**30
_GAMES = 1_000_000
ItemT = TypeVar("ItemT")


class SimulatorBenchmark(ABC):
    """A benchmark whose episodes run in worker processes. Its subclasses say which episodes there are.

    Attributes:
        name: the benchmark's name.
        progress_definition: in words, what the progress rate measures here.
        at_once: how many of its episodes may be open at the same time, as each holds a process.
    """

    progress_definition: str

    def __init__(self, name: str, simulator: str, limits: Limits, at_once: int) -> None:
        """A benchmark of a simulator, given as `module:Class`."""
        self.name = name
        self.at_once = at_once
        self.workers = Workers(simulator, limits)

    @abstractmethod
    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` episodes, the same ones for the same seed, spread over the task types."""

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        return RemoteEnvironment(self.workers, episode)

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The simulator's own solution.

        Raises:
            NoSolutionError: it has none, or fails in the search for one.
        """
        return self.workers.gold(episode)


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


def episodes_at_once(benchmark: Benchmark, wanted: int) -> int:
    """How many of `wanted` episodes a benchmark can hold open at the same time."""
    if not isinstance(benchmark, SimulatorBenchmark):
        return wanted
    # More processes than a core can serve while the others wait for the agent only take memory.
    return min(wanted, benchmark.at_once, max(4, 2 * (os.cpu_count() or 1)))


def need(benchmark: str, package: str) -> None:
    """Make sure that a benchmark's package is installed, without importing it.

    Raises:
        NotInstalledError: it is not.
    """
    if importlib.util.find_spec(package) is None:
        raise package_missing(benchmark, package)


def data_of(benchmark: str, name: str) -> dict[str, Any]:
    """A data file of a benchmark's package."""
    data: dict[str, Any] = yaml.safe_load(packaged_text("agentrefine.benchmarks", benchmark, name))
    return data


def rng_of(*parts: object) -> Random:
    """A random generator that is the same for the same parts, on every machine."""
    return Random(int(short_hash(*map(str, parts)), 16))


def games_folder(simulator: str) -> Path:
    """Where games that a simulator generates are kept: `AGENTREFINE_GAMES`, else the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AGENTREFINE_GAMES") or Path(cache) / "agentrefine" / "games") / simulator


def command(action: str) -> str | None:
    """An action as simulators take it: one line of lower-case ASCII with single spaces and no full stop at its end.

    None where the action is none: empty, too long, of several lines or sentences, or with characters that no
    simulator's parser knows.
    """
    words = re.sub(r" +", " ", action.strip(" \t")).removesuffix(".").rstrip().lower()
    # A full stop or semicolon would let the agent take many actions in one step.
    if not words or len(words) > MAX_ACTION or not re.fullmatch(r"[ -~]+", words) or re.search(r"[.;] |;", words):
        return None
    return words


def tidy(text: str) -> str:
    """A simulator's text without the blank space that it pads lines and paragraphs with."""
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def without_prompt(text: str) -> str:
    """What a text adventure says, tidied, without the prompt and the status line behind it."""
    return tidy(re.sub(r"\n>[^\n]*\s*$", "", text))
