"""AgentBoard's episodes, goals, sub-goals and difficulty (Ma et al., NeurIPS 2024), where the user has its labels.

`evaluation.data.agentboard` names AgentBoard's folder `data`. Its `<task>/test.jsonl` says which episodes there are;
the games are in the user's other folders, or else where AgentBoard's own download and repository have them. Progress,
success and valid actions are found as AgentBoard finds them, task by task (docs/agentboard.md).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from agentrefine.benchmarks.agentboard.babyai import BabyAIGame
from agentrefine.benchmarks.agentboard.labels import (
    DATA,
    AlfWorldLabel,
    BabyAILabel,
    JerichoLabel,
    LabelT,
    PddlLabel,
    SciWorldLabel,
    read_labels,
)
from agentrefine.benchmarks.agentboard.play import AlfWorldGame, JerichoGame, PddlGame, SciWorldGame
from agentrefine.benchmarks.agentboard.subgoals import Expressions
from agentrefine.benchmarks.alfworld.benchmark import GAME_FILE, UNSEEN, ALFWorld, unseen_folder
from agentrefine.benchmarks.babyai.benchmark import LEVELS, SEEDS, BabyAI
from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec
from agentrefine.benchmarks.jericho.benchmark import Jericho, stories
from agentrefine.benchmarks.pddl.benchmark import Pddl
from agentrefine.benchmarks.sciworld.benchmark import VARIATIONS, SciWorld
from agentrefine.benchmarks.simulators import need, rng_of, round_robin
from agentrefine.errors import NotInstalledError, UserError
from agentrefine.params.evaluation import BenchmarkData

STEPS = 30
"""Replies that AgentBoard gives an agent."""

DEFINITIONS: dict[str, str] = DATA["definitions"]
GAMES: dict[str, str] = DATA["games"]
PROBLEMS: list[tuple[str, int]] = [(name, n) for name, count in DATA["pddl_problems"].items() for n in range(count)]
STORIES: list[str] = DATA["stories"]
ItemT = TypeVar("ItemT")
CASES = [(level, seed) for level in LEVELS for seed in SEEDS]


class Case(NamedTuple, Generic[LabelT]):
    """A label and the episode that it is about; `place` says where the label stands."""

    spec: EpisodeSpec
    label: LabelT
    place: str


def agentboard(name: str, labels: Path, data: BenchmarkData) -> Benchmark:
    """A benchmark by AgentBoard's labels.

    Args:
        name: our name of the benchmark, one of `labels.TASKS`.
        labels: its file of labels.
        data: where the games are.

    Raises:
        NotInstalledError: the games that are labelled are not here.
        UserError: a label cannot be read, or is about a game that is not in its folder; names the line.
    """
    match name:
        case "alfworld":
            return AgentBoardAlfWorld(labels, _games(name, labels, data.alfworld))
        case "sciworld":
            return AgentBoardSciWorld(labels)
        case "babyai":
            return AgentBoardBabyAI(labels)
        case "pddl":
            return AgentBoardPddl(labels, _games(name, labels, data.pddl))
        case _:
            return AgentBoardJericho(labels, _games(name, labels, data.jericho))


class AgentBoardAlfWorld(ALFWorld):
    """The labelled games of ALFWorld's unseen ones."""

    progress_definition = DEFINITIONS["alfworld"]

    def __init__(self, labels: Path, folder: Path) -> None:
        super().__init__(folder)
        self._unseen = unseen_folder(folder)
        self._cases = _cases(labels, AlfWorldLabel, self._episode)

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` of the labelled games, spread over the task types."""
        need(self.name, "alfworld")
        return _spread(self._cases, limit, seed)

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        case = self._cases[episode.id]
        return AlfWorldGame(super().make(episode), case.label, case.place)

    def _episode(self, label: AlfWorldLabel, place: str) -> EpisodeSpec:
        game = label.additional_info.description
        if not (self._unseen / game / GAME_FILE).is_file():
            raise UserError(
                "file_missing",
                f"{place}: there is no game {self._unseen / game / GAME_FILE}; let the folder hold it.",
                file=self._unseen / game / GAME_FILE,
                place=place,
            )
        Expressions(label.subgoals, place)
        task = game.partition("-")[0]
        return EpisodeSpec(id=f"{self.name}/{game}", benchmark=self.name, task=task, seed=0, variant=UNSEEN)


class AgentBoardSciWorld(SciWorld):
    """The labelled variations."""

    progress_definition = DEFINITIONS["sciworld"]

    def __init__(self, labels: Path) -> None:
        super().__init__("AgentBoardSimulator")
        self._cases = _cases(labels, SciWorldLabel, self._episode)

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` of the labelled variations, spread over the tasks."""
        super().episodes(0, seed)  # raises where something is not installed
        return _spread(self._cases, limit, seed)

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        case = self._cases[episode.id]
        return SciWorldGame(super().make(episode), case.label, case.place)

    def _episode(self, label: SciWorldLabel, place: str) -> EpisodeSpec:
        task, variation = label.additional_info.env_name, label.additional_info.var
        if task not in VARIATIONS:
            raise UserError(
                "unknown_name",
                f"{place}: ScienceWorld has no task {task!r}; known are {', '.join(VARIATIONS)}.",
                place=place,
                name=task,
            )
        Expressions(label.subgoals, place)
        return EpisodeSpec(id=f"{self.name}.{task}.{variation}", benchmark=self.name, task=task, seed=variation)


class AgentBoardBabyAI(BabyAI):
    """The labelled cases: line 4 n + k is level n with the k-th seed."""

    progress_definition = DEFINITIONS["babyai"]

    def __init__(self, labels: Path) -> None:
        self._cases = _cases(labels, BabyAILabel, self._episode)

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` of the labelled cases, spread over the levels."""
        super().episodes(0, seed)  # raises where something is not installed
        return _spread(self._cases, limit, seed)

    def make(self, episode: EpisodeSpec) -> BabyAIGame:
        """The environment of one episode."""
        return BabyAIGame(episode.task, episode.seed, self._cases[episode.id].label)

    def _episode(self, label: BabyAILabel, place: str) -> EpisodeSpec:
        level, seed = _numbered(CASES, label.id, place)
        _check_subtask(
            place, label.id, level, label.additional_info.subtask.removeprefix("BabyAI-").rpartition("-v")[0]
        )
        return EpisodeSpec(id=f"{self.name}.{level}.{seed}", benchmark=self.name, task=level, seed=seed)


class AgentBoardPddl(Pddl):
    """The labelled problems: line n is the n-th of all, by domain and then by file name."""

    progress_definition = DEFINITIONS["pddl"]

    def __init__(self, labels: Path, folder: Path) -> None:
        super().__init__(folder)
        self._cases = _cases(labels, PddlLabel, self._episode)

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` of the labelled problems, spread over the domains."""
        super().episodes(0, seed)  # raises where something is not installed
        return _spread(self._cases, limit, seed)

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        return PddlGame(self.problem(episode), self._cases[episode.id].label)

    def _episode(self, label: PddlLabel, place: str) -> EpisodeSpec:
        name, number = _numbered(PROBLEMS, label.id, place)
        _check_subtask(place, label.id, name, label.additional_info.subtask)
        domain = self.domains.get(name)
        # AgentBoard's engine sorts the names of files as text: problem10 comes before problem2.
        problems = sorted(domain.problems, key=lambda stem: f"{stem}.pddl") if domain else []
        if number >= len(problems):
            raise UserError(
                "episode_missing",
                f"{place}: {self._folder} has {len(problems)} problems of the domain {name}, but the label is about "
                f"number {number + 1}; let evaluation.data.pddl name AgentBoard's folder pddl.",
                place=place,
                domain=name,
                found=len(problems),
            )
        problem = problems[number]
        id_ = f"{self.name}.{name}.{problem}"
        return EpisodeSpec(id=id_, benchmark=self.name, task=name, seed=number, variant=problem)


class AgentBoardJericho(Jericho):
    """The labelled stories: line n is the n-th of AgentBoard's list."""

    progress_definition = DEFINITIONS["jericho"]

    def __init__(self, labels: Path, folder: Path) -> None:
        super().__init__(folder)
        self._files = {file.stem: file.name for file in stories(folder)}
        self._cases = _cases(labels, JerichoLabel, self._episode)

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` of the labelled stories, in an order drawn by `seed`."""
        need(self.name, "jericho")
        return _spread(self._cases, limit, seed)

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        return JerichoGame(super().make(episode), self._cases[episode.id].label)

    def _episode(self, label: JerichoLabel, place: str) -> EpisodeSpec:
        story = _numbered(STORIES, label.id, place)
        if story not in self._files:
            raise UserError(
                "file_missing",
                f"{place}: there is no story {self._folder / story}.z5 or .z8; let the folder hold it.",
                file=self._folder,
                name=story,
                place=place,
            )
        return EpisodeSpec(id=f"{self.name}/{self._files[story]}", benchmark=self.name, task=story, seed=0)


AGENTBOARD = (AgentBoardAlfWorld, AgentBoardSciWorld, AgentBoardBabyAI, AgentBoardPddl, AgentBoardJericho)
"""The benchmarks in AgentBoard's form."""


def _games(name: str, labels: Path, given: str | None) -> Path:
    """The folder of a benchmark's games: the user's, else AgentBoard's own."""
    own = labels.parent.parent / GAMES[name]
    if given is None and not own.is_dir():
        raise NotInstalledError(
            "not_installed",
            f"{labels} labels games that are not here, neither in {own}; let evaluation.data.{name} name their folder.",
            file=labels,
            key=f"evaluation.data.{name}",
        )
    return Path(given) if given else own


def _numbered(items: Sequence[ItemT], number: int, place: str) -> ItemT:
    """The episode that a label is about, by its id."""
    if number >= len(items):
        raise UserError(
            "bad_value",
            f"{place}: id {number} is too large; AgentBoard has {len(items)} episodes, numbered from 0.",
            place=place,
            key="id",
            value=number,
        )
    return items[number]


def _check_subtask(place: str, number: int, wanted: str, found: str) -> None:
    if found != wanted:
        raise UserError(
            "label_mismatch",
            f"{place}: id {number} is of {wanted} in AgentBoard, but additional_info.subtask says {found!r}; "
            "take the file as AgentBoard has it.",
            place=place,
            expected=wanted,
            found=found,
        )


def _cases(labels: Path, kind: type[LabelT], episode: Callable[[LabelT, str], EpisodeSpec]) -> dict[str, Case[LabelT]]:
    """The labels of a file by the id of their episode."""
    cases: dict[str, Case[LabelT]] = {}
    for place, label in read_labels(labels, kind):
        spec = episode(label, place).model_copy(update={"difficulty": label.difficulty})
        if spec.id in cases:
            raise UserError(
                "duplicate_label",
                f"{place}: this episode is labelled before; {cases[spec.id].place} is about it.",
                place=place,
                earlier=cases[spec.id].place,
            )
        cases[spec.id] = Case(spec, label, place)
    return cases


def _spread(cases: Mapping[str, Case[LabelT]], limit: int, seed: int) -> list[EpisodeSpec]:
    """At most `limit` episodes: one of each task, in an order drawn by `seed`, then a second of each, ..."""
    tasks: dict[str, list[EpisodeSpec]] = {}
    for case in cases.values():
        tasks.setdefault(case.spec.task, []).append(case.spec)
    rng = rng_of("agentboard", seed)
    order = rng.sample(sorted(tasks), len(tasks))
    for specs in tasks.values():
        rng.shuffle(specs)
    return list(islice(round_robin(tasks[task] for task in order), limit))
