"""What the benchmarks show an agent, and what solves them: the texts that training data must not repeat."""

from contextlib import closing, suppress
from dataclasses import dataclass, field

from agentrefine.benchmarks.base import Benchmark, EpisodeSpec, NoSolutionError, SimulatorError
from agentrefine.benchmarks.catalogue import BENCHMARKS, benchmark
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.benchmarks.worlds.benchmark import WorldsBenchmark
from agentrefine.errors import NotInstalledError
from agentrefine.game.conversation import instructions
from agentrefine.params import Params
from agentrefine.params.evaluation import INSTALLED

SIMULATORS_SOLVED = 2
"""Episodes of a simulator that are solved: it may search a minute for one solution."""


@dataclass
class BenchmarkTexts:
    """The texts of one benchmark.

    Attributes:
        benchmark: its name.
        ours: its episodes are worlds of ours. They share families and texts with the training worlds by design, so
            families, themes and seeds distinguish them (`overlap.HeldOut`), and a shared text is no sign of a copy.
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
    """The texts of the benchmarks of `quality_gate.overlap_benchmarks`, and of those that the evaluation names.

    Of a benchmark that is evaluated these are all the episodes of the evaluation; of any other one
    `quality_gate.overlap_episodes`. So many are solved as well. A simulator takes seconds to start an episode: there it
    is the first `evaluation.simulator_episodes`, and `SIMULATORS_SOLVED` of them are solved.

    Raises:
        UserError: a benchmark that `evaluation.benchmarks` names is unknown or not installed, or the user's data of one
            is not what it should be.
    """
    named = [] if params.evaluation.benchmarks == INSTALLED else params.evaluation.benchmarks
    found = []
    compared = params.quality_gate.overlap_benchmarks
    for name in dict.fromkeys((*named, *(BENCHMARKS if compared == INSTALLED else compared))):
        source = benchmark(name, params.evaluation.data)
        episodes = solved = params.quality_gate.overlap_episodes
        if isinstance(source, SimulatorBenchmark):
            episodes, solved = params.evaluation.simulator_episodes, min(solved, SIMULATORS_SOLVED)
        elif name in named or not named:
            episodes = max(episodes, params.evaluation.episodes)
        try:
            found.append(benchmark_texts(source, episodes=episodes, solved=solved, seed=params.seed))
        except NotInstalledError as error:
            if name in named:
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
    solution = _solution(source, episode) if solve else []
    with closing(source.make(episode)) as environment:
        observation = environment.reset()
        texts.episodes += 1
        texts.goals.append(environment.goal)
        texts.passages += [instructions(environment.actions), environment.goal, observation]
        if solution:
            texts.solutions.append(solution)
        for action in solution:
            texts.passages += [action, environment.step(action).observation]


def _solution(source: Benchmark, episode: EpisodeSpec) -> list[str]:
    """The actions that solve an episode; empty where the benchmark has none."""
    try:
        return source.gold(episode)
    except NoSolutionError:
        return []
