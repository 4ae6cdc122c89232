"""The benchmarks by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from agentrefine.benchmarks.agentboard.benchmark import agentboard
from agentrefine.benchmarks.agentboard.labels import labels_file
from agentrefine.benchmarks.alfworld.benchmark import ALFWorld, PerturbedALFWorld, alfworld_folder, game_perturbation
from agentrefine.benchmarks.babyai.benchmark import BabyAI
from agentrefine.benchmarks.base import Benchmark, EpisodeSpec
from agentrefine.benchmarks.hotpotqa.benchmark import HotpotQA
from agentrefine.benchmarks.jericho.benchmark import jericho
from agentrefine.benchmarks.pddl.benchmark import Pddl
from agentrefine.benchmarks.sciworld.benchmark import SciWorld
from agentrefine.benchmarks.textworld.benchmark import TextWorld
from agentrefine.benchmarks.worlds.benchmark import WorldsBenchmark
from agentrefine.errors import NotInstalledError, UserError, unknown_name
from agentrefine.params import RENAMED, Params
from agentrefine.params.evaluation import INSTALLED, BenchmarkData, EvaluationParams
from agentrefine.worlds.catalogue import PARAPHRASES, paraphrase
from agentrefine.worlds.language import Paraphrase

BENCHMARKS: dict[str, Callable[[BenchmarkData], Benchmark]] = {
    "worlds_layouts": lambda _: WorldsBenchmark("worlds_layouts", "train"),
    "worlds_families": lambda _: WorldsBenchmark("worlds_families", "held_out"),
    "worlds_perturbed": lambda _: WorldsBenchmark("worlds_perturbed", "train", PARAPHRASES),
    "worlds_faulty": lambda _: WorldsBenchmark("worlds_faulty", "train", faulty=True),
    "babyai": lambda _: BabyAI(),
    "alfworld": lambda data: ALFWorld(_path(data.alfworld)),
    "alfworld_perturbed": lambda data: PerturbedALFWorld(_path(data.alfworld)),
    "sciworld": lambda _: SciWorld(),
    "pddl": lambda data: Pddl(_path(data.pddl)),
    "jericho": lambda data: jericho(_path(data.jericho)),
    "textworld": lambda _: TextWorld(),
    "hotpotqa": lambda data: HotpotQA(_path(data.hotpotqa)),
}
PACKAGES: dict[str, tuple[str, ...]] = {
    "babyai": ("minigrid",),
    "alfworld": ("alfworld", "textworld"),
    "alfworld_perturbed": ("alfworld", "textworld"),
    "sciworld": ("scienceworld",),
    "pddl": ("unified-planning",),
    "jericho": ("jericho", "textworld"),
    "textworld": ("textworld",),
}
"""The packages of others that decide how a benchmark's episodes go, by their names in the package index."""

DATA_FILES: dict[str, tuple[str, ...]] = {
    "alfworld": ("alfworld", "agentboard"),
    "alfworld_perturbed": ("alfworld",),
    "babyai": ("agentboard",),
    "sciworld": ("agentboard",),
    "pddl": ("pddl", "agentboard"),
    "jericho": ("jericho", "agentboard"),
    "hotpotqa": ("hotpotqa",),
}
"""The keys of `evaluation.data` whose files a benchmark plays, where they are given."""

NO_DATA = BenchmarkData()
"""A user without the published benchmarks, who plays the games of this project."""


def benchmark(name: str, data: BenchmarkData = NO_DATA) -> Benchmark:
    """The benchmark of this name, on the user's data where there is some; by AgentBoard's labels where those are.

    Raises:
        UserError: there is none, with a list of those that there are; or AgentBoard's labels cannot be used.
    """
    key = "evaluation.benchmarks"
    if name in RENAMED:
        message = f"{key}: {name} is now called {RENAMED[name]}; correct it."
        raise UserError("old_name", message, key=key, name=name, new=RENAMED[name])
    if name not in BENCHMARKS:
        raise unknown_name(key, "benchmark", name, BENCHMARKS, key=key)
    data = data.model_copy(update={"alfworld": alfworld_folder(data)})
    labels = labels_file(Path(data.agentboard), name) if data.agentboard else None
    return agentboard(name, labels, data) if labels else BENCHMARKS[name](data)


def perturbation_of(episode: EpisodeSpec) -> Paraphrase | None:
    """How an episode's actions are perturbed; None where they are as its benchmark's examples show them."""
    if episode.benchmark == PerturbedALFWorld.name:
        return game_perturbation(episode)
    return paraphrase(episode.perturbation) if episode.benchmark == "worlds_perturbed" else None


def named(benchmarks: str | Sequence[str]) -> list[str]:
    """The names that a parameter gives: all for `installed`, else those of its list."""
    return list(BENCHMARKS) if isinstance(benchmarks, str) else list(benchmarks)


def compared_benchmarks(params: Params) -> list[str]:
    """The benchmarks that are evaluated, then the others of `quality_gate.overlap_benchmarks`."""
    return list(dict.fromkeys((*named(params.evaluation.benchmarks), *named(params.quality_gate.overlap_benchmarks))))


def selected(params: EvaluationParams) -> dict[str, Benchmark | NotInstalledError]:
    """The benchmarks that are to be played, and why those that are not installed cannot be.

    Raises:
        UserError: params.yaml names a benchmark that there is not, or one that is not installed.
    """
    found: dict[str, Benchmark | NotInstalledError] = {}
    for name in named(params.benchmarks):
        try:
            usable = benchmark(name, params.data)
            usable.episodes(1, 0)
            found[name] = usable
        except NotInstalledError as error:
            if params.benchmarks != INSTALLED:
                raise
            found[name] = error
    return found


def _path(given: str | None) -> Path | None:
    return Path(given) if given else None
