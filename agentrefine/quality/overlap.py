"""What training data must not contain: the worlds and texts that models are evaluated on.

`benchmark_texts` reads what the benchmarks show an agent and what solves them; `OverlapIndex` finds it in games.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from agentrefine.benchmarks.base import Benchmark, EpisodeSpec, NoSolutionError, SimulatorError
from agentrefine.benchmarks.catalogue import benchmark, compared_benchmarks, named
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.benchmarks.worlds.benchmark import WorldsBenchmark
from agentrefine.errors import NotInstalledError
from agentrefine.files import packaged_text
from agentrefine.game.conversation import instructions
from agentrefine.game.script import Script
from agentrefine.game.text import words, words_and_ends
from agentrefine.game.trajectory import DMTurn, Trajectory, steps
from agentrefine.params import Params
from agentrefine.params.evaluation import INSTALLED
from agentrefine.quality.gate_result import BenchmarkOverlap
from agentrefine.worlds import catalogue
from agentrefine.worlds.layout import EVALUATION_SEEDS

SIMULATORS_SOLVED = 2
"""Episodes of a simulator that are solved: it may search a minute for one solution."""

WORLD_ID = re.compile(r"(?P<family>[^.]+)\.(?P<theme>[^.]+)\.(?P<seed>[0-9]{1,18})")

MIN_GOAL = 4
"""The fewest words of a goal that counts; a shorter one, such as "open the door", is everyday language."""

MIN_SOLUTION = 3
"""The fewest different actions of a solution that counts; three steps forward are no sign of a copy."""

_BASE = 0x9E3779B97F4A7C15
"""The base of the rolling hash: an odd number whose bits are mixed well (2^64 divided by the golden ratio)."""


@dataclass
class BenchmarkTexts:
    """The texts of one benchmark.

    Attributes:
        benchmark: its name.
        ours: its episodes are worlds of ours. They share families and texts with the training worlds by design, so
            families, themes and seeds distinguish them (`HeldOut`), and a shared text is no sign of a copy.
        missing: why there are no texts: a package or data folder of the benchmark is not installed. Empty otherwise.
        episodes: how many episodes the texts are of.
        passages: instructions, goals, observations and gold actions.
        goals: the goals again, to be met whole.
        solutions: gold actions of an episode, in order.
    """

    benchmark: str
    ours: bool = False
    missing: str = ""
    episodes: int = 0
    passages: list[str] = field(default_factory=list)
    goals: list[str] = field(default_factory=list)
    solutions: list[list[str]] = field(default_factory=list)


def all_benchmark_texts(params: Params) -> list[BenchmarkTexts]:
    """The texts of the benchmarks that are evaluated, and of those of `quality_gate.overlap_benchmarks`.

    Of a benchmark that is evaluated these are all the episodes of the evaluation; of any other one
    `quality_gate.overlap_episodes`. So many are solved as well. A simulator takes seconds to start an episode: there it
    is the first `evaluation.simulator_episodes`, and `SIMULATORS_SOLVED` of them are solved.

    Raises:
        UserError: a benchmark that `evaluation.benchmarks` names is unknown or not installed, or the user's data of one
            is not what it should be.
    """
    evaluated = named(params.evaluation.benchmarks)
    required = [] if params.evaluation.benchmarks == INSTALLED else evaluated
    found = []
    for name in compared_benchmarks(params):
        source = benchmark(name, params.evaluation.data)
        episodes = solved = params.quality_gate.overlap_episodes
        if isinstance(source, SimulatorBenchmark):
            episodes, solved = params.evaluation.simulator_episodes, min(solved, SIMULATORS_SOLVED)
        elif name in evaluated:
            episodes = max(episodes, params.evaluation.episodes)
        try:
            found.append(benchmark_texts(source, episodes=episodes, solved=solved, seed=params.seed))
        except NotInstalledError as error:
            if name in required:
                raise
            found.append(BenchmarkTexts(name, missing=str(error)))
    return found


def benchmark_texts(source: Benchmark, *, episodes: int, solved: int, seed: int) -> BenchmarkTexts:
    """The texts of a benchmark.

    Args:
        source: the benchmark.
        episodes: how many episodes are begun, at most.
        solved: how many of them are played by the gold actions.
        seed: which episodes.

    Raises:
        UserError: a package or data folder of the benchmark is missing.
    """
    texts = BenchmarkTexts(source.name, ours=isinstance(source, WorldsBenchmark))
    for number, episode in enumerate(source.episodes(episodes, seed)):
        with suppress(SimulatorError):  # what the simulator showed until it died is kept
            _read(source, episode, texts, solve=number < solved)
    return texts


def _read(source: Benchmark, episode: EpisodeSpec, texts: BenchmarkTexts, *, solve: bool) -> None:
    """Add one episode's texts."""
    solution: list[str] = []
    with suppress(NoSolutionError):
        solution = source.gold(episode) if solve else []
    with closing(source.make(episode)) as environment:
        observation = environment.reset()
        texts.episodes += 1
        texts.goals.append(environment.goal)
        texts.passages += [instructions(environment.actions), environment.goal, observation]
        if solution:
            texts.solutions.append(solution)
        for action in solution:
            texts.passages += [action, environment.step(action).observation]


class Found(NamedTuple):
    """What one trajectory shares with the benchmarks.

    Attributes:
        ngrams: positions of the n-grams in the index.
        benchmarks: the benchmarks as bits, the first one lowest.
        foreign: the first thing that it shares with a benchmark that is not ours, in words; None when nothing.
    """

    ngrams: NDArray[np.intp]
    benchmarks: int
    foreign: str | None


class OverlapIndex:
    """The n-grams of benchmarks' texts, ready to be looked for.

    An n-gram is a run of words within one sentence, whatever their case and the punctuation between them, as in the
    contamination studies of language models (Brown et al. 2020, appendix C; Chowdhery et al. 2022, section 8, whose
    n-grams of 8 words are ours). It is kept as a 64-bit rolling hash over the numbers of its words; words that no
    benchmark uses need no number, so a game costs one look-up per word and one search per run of known words.

    A goal of some words also counts when it is met whole; so do gold actions: the game's actions without its mistakes.

    Args:
        benchmarks: the texts of at most 64 benchmarks.
        size: length of an n-gram, in words.
    """

    def __init__(self, benchmarks: Sequence[BenchmarkTexts], size: int) -> None:
        self.benchmarks = benchmarks
        self._size = size
        self._powers = np.array([pow(_BASE, power, 2**64) for power in range(size)], dtype=np.uint64)
        self._numbers: dict[str, int] = {}
        self._hashes, self.owners = self._read(benchmarks)
        self._foreign = sum((not texts.ours) << bit for bit, texts in enumerate(benchmarks))
        self._goals: defaultdict[str, int] = defaultdict(int)
        self._solutions: defaultdict[str, int] = defaultdict(int)
        for bit, texts in enumerate(benchmarks):
            for goal in texts.goals:
                if len(words(goal)) >= MIN_GOAL:
                    self._goals[_normal(goal)] |= 1 << bit
            for solution in texts.solutions:
                if len(set(solution)) >= MIN_SOLUTION:
                    self._solutions[_joined(solution)] |= 1 << bit

    def find(self, trajectory: Trajectory) -> Found:
        """What a trajectory shares with the benchmarks: all that a model reads or writes in the game is compared."""
        tokens = words_and_ends("\n".join(_texts(trajectory)))
        starts, hashes = self._windows(np.array([self._numbers.get(token, 0) for token in tokens], dtype=np.uint64))
        places = np.searchsorted(self._hashes, hashes)
        known = places < len(self._hashes)
        known[known] = self._hashes[places[known]] == hashes[known]
        starts, places = starts[known], places[known]
        owners = self.owners[places]
        goal = _normal(trajectory.script.goal)
        solution = _joined(step.player.action for step in steps(trajectory.turns) if not step.answer.error)
        shared = [
            (self._goals.get(goal, 0), "goal", goal),
            (self._solutions.get(solution, 0), "gold actions", solution),
        ]
        foreign = np.flatnonzero(owners & np.uint64(self._foreign))
        if len(foreign):
            start = starts[foreign[0]]
            shared.append((int(owners[foreign[0]]), "text", " ".join(tokens[start : start + self._size])))
        described = (f'{self._name(by)} {kind} "{text}"' for by, kind, text in shared if by & self._foreign)
        benchmarks = int(np.bitwise_or.reduce(owners, initial=np.uint64(0))) | shared[0][0] | shared[1][0]
        return Found(places, benchmarks, next(described, None))

    def _read(self, benchmarks: Sequence[BenchmarkTexts]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The hashes of all n-grams that are not allowed, sorted, and the benchmarks of each as bits."""
        allowed = np.concatenate([self._hash(text) for text in allowed_texts()])
        owners: defaultdict[int, int] = defaultdict(int)
        for bit, texts in enumerate(benchmarks):
            for passage in dict.fromkeys(texts.passages):
                for value in np.setdiff1d(self._hash(passage), allowed).tolist():
                    owners[value] |= 1 << bit
        ordered = sorted(owners)
        return np.array(ordered, dtype=np.uint64), np.array([owners[value] for value in ordered], dtype=np.uint64)

    def _hash(self, text: str) -> NDArray[np.uint64]:
        """The hashes of a text's n-grams; its words are given numbers from 1."""
        numbers = [
            self._numbers.setdefault(token, len(self._numbers) + 1) if token[0].isalnum() or token[0] == "_" else 0
            for token in words_and_ends(text)
        ]
        return self._windows(np.array(numbers, dtype=np.uint64))[1]

    def _windows(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
        """Where n-grams of numbered words begin, and their hashes; 0 is no word of a benchmark."""
        if len(numbers) < self._size:
            return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.uint64)
        breaks = np.concatenate(([0], np.cumsum(numbers == 0)))
        starts = np.flatnonzero(breaks[self._size :] == breaks[: -self._size])
        runs = np.lib.stride_tricks.sliding_window_view(numbers, self._size)[starts]
        return starts, (runs * self._powers).sum(axis=1, dtype=np.uint64)

    def _name(self, owners: int) -> str:
        """The first benchmark of a set that is not ours."""
        bits = owners & self._foreign
        return self.benchmarks[(bits & -bits).bit_length() - 1].benchmark


class OverlapCounts:
    """Counts what trajectories share with the benchmarks, as they stream by."""

    def __init__(self, index: OverlapIndex) -> None:
        self._index = index
        self._met = np.zeros(len(index.owners), dtype=bool)
        self._trajectories = [0] * len(index.benchmarks)

    def add(self, found: Found) -> None:
        """Count one trajectory."""
        self._met[found.ngrams] = True
        for bit in range(len(self._trajectories)):
            self._trajectories[bit] += found.benchmarks >> bit & 1

    def by_benchmark(self) -> dict[str, BenchmarkOverlap]:
        """The figures so far, by the benchmark's name."""
        figures = {}
        for bit, texts in enumerate(self._index.benchmarks):
            own = (self._index.owners >> np.uint64(bit) & np.uint64(1)).astype(bool)
            figures[texts.benchmark] = BenchmarkOverlap(
                ours=texts.ours,
                missing=texts.missing,
                episodes=texts.episodes,
                ngrams=int(own.sum()),
                ngrams_found=int((own & self._met).sum()),
                trajectories=self._trajectories[bit],
            )
        return figures


@cache
def allowed_texts() -> tuple[str, ...]:
    """Texts that are no overlap: those of `allowed_texts.yaml`, and what every conversation of ours begins with."""
    listed = yaml.safe_load(packaged_text("agentrefine.quality", "allowed_texts.yaml"))
    return (instructions({}), *(entry["text"] for entry in listed))


def _texts(trajectory: Trajectory) -> Iterator[str]:
    """All that a model reads or writes in a game, one passage at a time."""
    yield trajectory.script.goal
    for template, action in trajectory.script.available_actions.items():
        yield f"{template}: {action.description}"
    for turn in trajectory.turns:
        yield from [turn.observation] if isinstance(turn, DMTurn) else [turn.thought, turn.action]


def _normal(text: str) -> str:
    return " ".join(words(text))


def _joined(actions: Iterable[str]) -> str:
    return ", ".join(_normal(action) for action in actions)


@dataclass(frozen=True)
class HeldOut:
    """The evaluation's worlds and texts.

    Attributes:
        families: world families that are played in evaluation only.
        themes: world themes that are played in evaluation only.
        first_seed: layouts with this seed or a higher one are played in evaluation only.
        texts: the benchmarks' texts.
    """

    families: frozenset[str]
    themes: frozenset[str]
    first_seed: int
    texts: OverlapIndex

    def overlap(self, script: Script, found: Found) -> str | None:
        """What of the evaluation a game repeats, in words, given what `texts` found in it; None when nothing.

        Worlds made here name themselves in the script (`environment.world`, "family.theme.seed"); besides, every game
        is compared with the texts of the benchmarks that are not ours.
        """
        world = WORLD_ID.fullmatch(world_id(script))
        if world and world["family"] in self.families:
            return f"held-out family {world['family']}"
        if world and world["theme"] in self.themes:
            return f"held-out theme {world['theme']}"
        if world and int(world["seed"]) >= self.first_seed:
            return f"evaluation seed {world['seed']}"
        return found.foreign


def held_out(benchmarks: Sequence[BenchmarkTexts], ngram_words: int) -> HeldOut:
    """What this project evaluates on: the catalogue's held-out worlds, and the texts of all benchmarks in n-grams."""
    return HeldOut(
        families=frozenset(family.name for family in catalogue.families("held_out")),
        themes=frozenset(theme.name for theme in catalogue.themes("held_out")),
        first_seed=EVALUATION_SEEDS,
        texts=OverlapIndex(benchmarks, ngram_words),
    )


def world_id(script: Script) -> str:
    """The world that a script was exported from, "family.theme.seed"; empty for a script of another origin."""
    value = script.environment.get("world", "")
    return value if isinstance(value, str) else ""
