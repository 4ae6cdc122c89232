"""What the benchmarks on installed simulators share: workers, and how actions and texts are cleaned."""

import importlib.util
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path

from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, StepResult
from agentrefine.benchmarks.common import LISTING, DrawnBenchmark, filled, not_installed
from agentrefine.benchmarks.worker import Limits, Opening, RemoteEnvironment, Workers

MAX_ACTION = 200
"""The most characters of an action that a simulator gets to see."""


class SimulatorBenchmark(DrawnBenchmark):
    """A benchmark whose episodes run in worker processes.

    Attributes:
        package: the simulator's Python package.
        at_once: how many of its episodes may be open at the same time, as each holds a process.
        workers: the processes.
    """

    package: str
    at_once = 32

    def __init__(self, name: str, simulator: "type[TextSimulator]", limits: Limits) -> None:
        self.name = name
        self.workers = Workers(f"{simulator.__module__}:{simulator.__name__}", limits)

    def check_installed(self) -> None:
        """Make sure that the simulator's package is installed, without importing it."""
        if importlib.util.find_spec(self.package) is None:
            raise not_installed(self.name, self.package)

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        return RemoteEnvironment(self.workers, episode)

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The simulator's own solution; as in `Workers.gold`."""
        return self.workers.gold(episode)


class TextSimulator(ABC):
    """What runs in a worker: which actions reach the game, and the texts around its answers.

    Attributes:
        texts: what is said where the game says nothing, by `over`, `available`, `unknown`, `won` and `lost`.
    """

    texts: Mapping[str, str]

    @abstractmethod
    def start(self, episode: EpisodeSpec) -> Opening:
        """Begin an episode; one that was being played is dropped."""

    @abstractmethod
    def gold(self, episode: EpisodeSpec) -> list[str]:
        """Actions that solve an episode, as in `Benchmark`. Ends the episode that is played."""

    @abstractmethod
    def _standing(self) -> tuple[float, bool, bool]:
        """The best progress so far, whether the game is won, and whether it is over."""

    @abstractmethod
    def _is_known(self, words: str) -> bool:
        """Whether an action in the form of `command` is the game's, and not of the program that runs it."""

    @abstractmethod
    def _take(self, words: str) -> tuple[str, bool]:
        """The game's answer to an action that is known, and whether the action was valid."""

    @abstractmethod
    def possible(self) -> list[str]:
        """The actions that are possible now."""

    def _listed(self) -> Iterable[str]:
        """What the agent reads when it asks for the available actions."""
        return self.possible()

    def step(self, action: str) -> StepResult:
        """Take one action."""
        words = command(action)
        if self._standing()[2]:
            answer, valid = self.texts["over"], False
        elif words == LISTING:
            answer, valid = filled(self.texts["available"], actions=", ".join(self._listed())), True
        elif words is None or not self._is_known(words):
            answer, valid = self.texts["unknown"], False
        else:
            answer, valid = self._take(words)
            _, won, over = self._standing()
            ending = self.texts["won" if won else "lost"] if over else ""
            answer = "\n".join(filter(None, [answer, ending])) or self.texts["unknown"]
        return StepResult(answer, *self._standing(), valid)


def episodes_at_once(benchmark: Benchmark, wanted: int) -> int:
    """How many of `wanted` episodes a benchmark can hold open at the same time."""
    if not isinstance(benchmark, SimulatorBenchmark):
        return wanted
    # More processes than a core can serve while the others wait for the agent only take memory.
    return min(wanted, benchmark.at_once, max(4, 2 * (os.cpu_count() or 1)))


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
