"""The benchmarks by name."""

from collections.abc import Callable
from pathlib import Path

from agentrefine.benchmarks.agentboard.benchmark import agentboard
from agentrefine.benchmarks.agentboard.labels import labels_file
from agentrefine.benchmarks.alfworld.benchmark import ALFWorld, alfworld_folder
from agentrefine.benchmarks.alfworld.perturbed import PerturbedALFWorld, game_perturbation
from agentrefine.benchmarks.babyai.benchmark import BabyAI
from agentrefine.benchmarks.base import Benchmark, EpisodeSpec
from agentrefine.benchmarks.hotpotqa.benchmark import HotpotQA
from agentrefine.benchmarks.jericho.benchmark import jericho
from agentrefine.benchmarks.pddl.benchmark import Pddl
from agentrefine.benchmarks.sciworld.benchmark import SciWorld
from agentrefine.benchmarks.textworld.benchmark import TextWorld
from agentrefine.benchmarks.worlds.benchmark import (
    world_perturbation,
    worlds_families,
    worlds_layouts,
    worlds_perturbed,
)
from agentrefine.errors import NotInstalledError, UserError
from agentrefine.params import RENAMED
from agentrefine.params.evaluation import INSTALLED, BenchmarkData, EvaluationParams
from agentrefine.worlds.language import Paraphrase

BENCHMARKS: dict[str, Callable[[BenchmarkData], Benchmark]] = {
    "worlds_layouts": lambda _: worlds_layouts(),
    "worlds_families": lambda _: worlds_families(),
    "worlds_perturbed": lambda _: worlds_perturbed(),
    "babyai": lambda _: BabyAI(),
    "alfworld": lambda data: ALFWorld(_path(data.alfworld)),
    "alfworld_perturbed": lambda data: PerturbedALFWorld(_path(data.alfworld)),
    "sciworld": lambda _: SciWorld(),
    "pddl": lambda data: Pddl(_path(data.pddl)),
    "jericho": lambda data: jericho(_path(data.jericho)),
    "textworld": lambda _: TextWorld(),
    "hotpotqa": lambda data: HotpotQA(_path(data.hotpotqa)),
}
REWORDED: dict[str, Callable[[EpisodeSpec], Paraphrase | None]] = {
    "worlds_perturbed": world_perturbation,
    "alfworld_perturbed": game_perturbation,
}
"""The benchmarks whose episodes differ in the wording of their actions, and which wording an episode has."""

OURS = BenchmarkData()
"""Nothing of the published benchmarks: games of ours, or made here."""


def benchmark(name: str, data: BenchmarkData = OURS) -> Benchmark:
    """The benchmark of this name, on the user's data where there is some; by AgentBoard's labels where those are.

    Raises:
        UserError: there is none, with a list of those that there are; or AgentBoard's labels cannot be used.
    """
    if name not in BENCHMARKS:
        if name in RENAMED:
            raise UserError(
                "old_name",
                f"evaluation.benchmarks: {name} is now called {RENAMED[name]}; correct it.",
                key="evaluation.benchmarks",
                name=name,
                new=RENAMED[name],
            )
        raise UserError(
            "unknown_name",
            f"evaluation.benchmarks: there is no benchmark {name!r}; known are {', '.join(BENCHMARKS)}.",
            key="evaluation.benchmarks",
            name=name,
            known=list(BENCHMARKS),
        )
    data = data.model_copy(update={"alfworld": alfworld_folder(data)})
    labels = labels_file(Path(data.agentboard), name) if data.agentboard else None
    return agentboard(name, labels, data) if labels else BENCHMARKS[name](data)


def wording_of(episode: EpisodeSpec) -> Paraphrase | None:
    """The wording of an episode's actions; None where it is the one that its benchmark is shown in."""
    return REWORDED[episode.benchmark](episode) if episode.benchmark in REWORDED else None


def selected(params: EvaluationParams) -> dict[str, Benchmark | NotInstalledError]:
    """The benchmarks that are to be played, and why those that are not installed cannot be.

    Raises:
        UserError: params.yaml names a benchmark that there is not, or one that is not installed.
    """
    names = BENCHMARKS if params.benchmarks == INSTALLED else params.benchmarks
    return {name: _usable(name, params.data, named=names is not BENCHMARKS) for name in names}


def _usable(name: str, data: BenchmarkData, *, named: bool) -> Benchmark | NotInstalledError:
    try:
        found = benchmark(name, data)
        found.episodes(1, 0)
    except NotInstalledError as error:
        if named:
            raise
        return error
    return found


def _path(given: str | None) -> Path | None:
    return Path(given) if given else None
