"""AgentBoard's episodes, goals, sub-goals and difficulty (Ma et al., NeurIPS 2024), where the user has its labels.

`evaluation.data.agentboard` names AgentBoard's folder `data`. Its `<task>/test.jsonl` says which episodes there are;
the games are in the user's other folders, or else where AgentBoard's own download and repository have them. Progress,
success and valid actions are found as AgentBoard finds them, task by task (docs/agentboard.md).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from agentrefine.benchmarks.agentboard.babyai import BabyAIGame
from agentrefine.benchmarks.agentboard.labels import (
    DATA,
    AlfWorldLabel,
    BabyAILabel,
    Expressions,
    JerichoLabel,
    LabelT,
    PddlLabel,
    SciWorldLabel,
    SubgoalPhrases,
    label_error,
    passage_shows,
    read_labels,
)
from agentrefine.benchmarks.alfworld.benchmark import GAME_FILE, UNSEEN, ALFWorld, unseen_folder
from agentrefine.benchmarks.babyai.benchmark import LEVELS, SEEDS, BabyAI
from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, StepResult
from agentrefine.benchmarks.common import CHECK, LISTING, DrawnBenchmark, rng_of, round_robin
from agentrefine.benchmarks.jericho.benchmark import TEXTS as STORY_TEXTS
from agentrefine.benchmarks.jericho.benchmark import Jericho, stories
from agentrefine.benchmarks.pddl.benchmark import LOOK, Pddl, PddlEnvironment
from agentrefine.benchmarks.sciworld.benchmark import VARIATIONS, AgentBoardSimulator, SciWorld
from agentrefine.benchmarks.simulators import command
from agentrefine.errors import NotInstalledError
from agentrefine.params.evaluation import BenchmarkData

STEPS = 30
"""Replies that AgentBoard gives an agent."""

PROBLEMS: list[tuple[str, int]] = [(name, n) for name, count in DATA["pddl_problems"].items() for n in range(count)]
STORIES: list[str] = DATA["stories"]
CASES = [(level, seed) for level in LEVELS for seed in SEEDS]
MAX_COMMAND_WORDS = 20
"""Words of a command that reach a story's interpreter (`parse_action` of agentboard/tasks/jericho.py)."""

ItemT = TypeVar("ItemT")
PlayedT = TypeVar("PlayedT", bound=Environment)


class LabelledGame(Environment, Generic[PlayedT, LabelT]):
    """An environment with AgentBoard's label over it: the goal is the label's, the actions are the environment's."""

    goal = ""

    def __init__(self, played: PlayedT, label: LabelT) -> None:
        self.goal = label.goal
        self._played = played
        self._label = label

    @property
    def actions(self) -> Mapping[str, str]:
        """Templates and descriptions of the actions."""
        return self._played.actions

    def possible(self) -> list[str]:
        """Actions that are possible now."""
        return self._played.possible()

    def close(self) -> None:
        """Free what the environment holds."""
        self._played.close()


class AlfWorldGame(LabelledGame[Environment, AlfWorldLabel]):
    """A labelled game of ALFWorld (agentboard/environment/alfworld/alfworld_env.py, agentboard/tasks/alfworld.py).

    AgentBoard played games made before ALFWorld 0.4, which say `put` for what newer ones call `move`. Its labels match
    on the old words, so the observations of newer games are rewritten. `look` repeats what was last seen. Valid: the
    action is possible now, or a look at the actions.
    """

    @property
    def actions(self) -> Mapping[str, str]:
        """Templates and descriptions of the actions, in AgentBoard's words."""
        words = {LISTING: CHECK, "move {object} to {place}": "put {object} in/on {place}"}
        return {words.get(action, action): does for action, does in self._played.actions.items()}

    def reset(self) -> str:
        """Start the game and return the first observation."""
        self._subgoals = Expressions(self._label.subgoals)
        self._seen = self._played.reset()
        self._newer = "move {object} to {place}" in self._played.actions
        return self._seen

    def step(self, action: str) -> StepResult:
        """Take one action."""
        words = _in_or_on(action.strip().removesuffix(".").lower())
        if words == CHECK:
            result = self._played.step(LISTING)
            return self._measured(result._replace(observation=_older(result.observation)))
        if self._newer:
            words = re.sub(r"^put (.+) in/on (.+)$", r"move \1 to \2", words)
        result = self._played.step(words)
        observation = re.sub(r"^You move the (.+) to the (.+)\.", r"You put the \1 in/on the \2.", result.observation)
        if words == "look":
            observation = self._seen
        elif ("go to" in words or "open" in words) and "Nothing happens" not in observation:
            self._seen = observation
        return self._measured(result._replace(observation=re.sub(r"^You arrive at loc .*?\. ", "", observation)))

    def possible(self) -> list[str]:
        """The commands that the game admits now, in AgentBoard's words."""
        return [_older(own) for own in self._played.possible()]

    def _measured(self, result: StepResult) -> StepResult:
        """With AgentBoard's progress: the won game counts as one more sub-goal."""
        self._subgoals.read(result.observation)
        return result._replace(progress=1.0 if result.done else self._subgoals.share(further=1))


class SciWorldGame(LabelledGame[Environment, SciWorldLabel]):
    """A labelled variation, played by `AgentBoardSimulator`; it ends when all sub-goals are reached."""

    def reset(self) -> str:
        """Start the variation and return the first observation, the inventory with it."""
        self._subgoals = Expressions(self._label.subgoals)
        return self._played.reset()

    def step(self, action: str) -> StepResult:
        """Take one action."""
        result = self._played.step(action)
        if command(action) != CHECK:
            self._subgoals.read(result.observation)
        share = self._subgoals.share()
        return result._replace(progress=share, success=share == 1, done=share == 1)


class PddlGame(LabelledGame[PddlEnvironment, PddlLabel]):
    """A labelled problem (agentboard/environment/pddl_env/pddl_env.py). Observations are in our words.

    Progress is 0 until an action has changed something, even where some of the goal holds from the start.
    """

    def reset(self) -> str:
        """Start the problem and return the first observation."""
        self._progress = 0.0
        return self._played.reset()

    def step(self, action: str) -> StepResult:
        """Take one action."""
        words = action.lower()
        looks = next((look for part, look in (("check", CHECK), (LOOK, LOOK)) if part in words), None)
        result = self._played.step(looks or action)
        if result.valid and not looks:
            self._progress = max(self._progress, self._played.share())
        return result._replace(progress=self._progress)


class JerichoGame(LabelledGame[Environment, JerichoLabel]):
    """A labelled story (agentboard/environment/jericho_env.py). Valid: the story did not answer with a remark in `[!`.

    The list of possible actions is Jericho's own where it can make one.
    """

    @property
    def actions(self) -> Mapping[str, str]:
        """Templates and descriptions of the actions."""
        own: dict[str, str] = DATA["jericho"]["actions"]
        return {**self._played.actions, **own}

    def reset(self) -> str:
        """Start the story and return the first observation: the label's, where it has one."""
        self._subgoals = SubgoalPhrases([self._label.subgoals], passage_shows)
        own = self._played.reset()
        return self._label.first_observation or _on_one_line(own)

    def step(self, action: str) -> StepResult:
        """Take one action."""
        words = action.partition(",")[0].partition(".")[0]
        words = " ".join(words.split(" ")[:MAX_COMMAND_WORDS])
        if "check" in words.lower() and "action" in words.lower():
            result = self._played.step(LISTING)
            return result._replace(progress=self._subgoals.share(), success=False, done=False, valid=True)
        result = self._played.step(words)
        observation = _on_one_line(result.observation)
        self._subgoals.read(observation)
        share = self._subgoals.share()
        valid = "[!" not in observation and observation != STORY_TEXTS["unknown"]
        return StepResult(observation, share, success=share == 1, done=share == 1 or result.done, valid=valid)


class AgentBoard(DrawnBenchmark, Generic[LabelT]):
    """What a benchmark becomes by AgentBoard's labels; it stands before the benchmark among the bases of a class."""

    label: type[LabelT]
    game: type[LabelledGame[Any, LabelT]]

    def __init__(self, labels: Path, *arguments: Any) -> None:  # noqa: ANN401  those of the benchmark behind this one
        super().__init__(*arguments)
        self.progress_definition = DATA["definitions"][self.name]
        self._specs: list[EpisodeSpec] = []
        self._labels: dict[str, LabelT] = {}
        places: dict[str, str] = {}
        for place, label in read_labels(labels, self.label):
            spec = self._episode(label, place).model_copy(update={"difficulty": label.difficulty})
            earlier = places.setdefault(spec.id, place)
            if earlier != place:
                message = f"this episode is labelled before; {earlier} is about it."
                raise label_error("duplicate_label", place, message, earlier=earlier)
            self._specs.append(spec)
            self._labels[spec.id] = label

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """A labelled episode of each task, in an order drawn by `seed`, then a second of each, ..."""
        tasks: dict[str, list[EpisodeSpec]] = {}
        for spec in self._specs:
            tasks.setdefault(spec.task, []).append(spec)
        rng = rng_of("agentboard", seed)
        order = rng.sample(sorted(tasks), len(tasks))
        for specs in tasks.values():
            rng.shuffle(specs)
        return round_robin(tasks[task] for task in order)

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        played = super().make(episode)  # type: ignore[safe-super]  # that of the benchmark behind this one
        return self.game(played, self._labels[episode.id])

    def _episode(self, label: LabelT, place: str) -> EpisodeSpec:
        """The episode that a label is about."""
        raise NotImplementedError


class AgentBoardAlfWorld(AgentBoard[AlfWorldLabel], ALFWorld):
    """The labelled games of ALFWorld's unseen ones."""

    label, game = AlfWorldLabel, AlfWorldGame

    def __init__(self, labels: Path, folder: Path) -> None:
        self._unseen = unseen_folder(folder)
        super().__init__(labels, folder)

    def _episode(self, label: AlfWorldLabel, place: str) -> EpisodeSpec:
        game = label.game
        file = self._unseen / game / GAME_FILE
        if not file.is_file():
            message = f"there is no game {file}; let the folder hold it."
            raise label_error("file_missing", place, message, file=file, name=game)
        Expressions(label.subgoals, place)
        task = game.partition("-")[0]
        return EpisodeSpec(id=f"{self.name}/{game}", benchmark=self.name, task=task, seed=0, variant=UNSEEN)


class AgentBoardSciWorld(AgentBoard[SciWorldLabel], SciWorld):
    """The labelled variations."""

    label, game = SciWorldLabel, SciWorldGame

    def _episode(self, label: SciWorldLabel, place: str) -> EpisodeSpec:
        task, variation = label.task, label.variation
        if task not in VARIATIONS:
            message = f"ScienceWorld has no task {task!r}; known are {', '.join(VARIATIONS)}."
            raise label_error("unknown_name", place, message, name=task)
        Expressions(label.subgoals, place)
        return EpisodeSpec(id=f"{self.name}.{task}.{variation}", benchmark=self.name, task=task, seed=variation)


class AgentBoardBabyAI(AgentBoard[BabyAILabel], BabyAI):
    """The labelled cases: line 4 n + k is level n with the k-th seed."""

    label = BabyAILabel

    def make(self, episode: EpisodeSpec) -> BabyAIGame:
        """The environment of one episode."""
        return BabyAIGame(episode.task, episode.seed, self._labels[episode.id])

    def _episode(self, label: BabyAILabel, place: str) -> EpisodeSpec:
        level, seed = _numbered(CASES, label.id, place)
        subtask = label.subtask.removeprefix("BabyAI-").rpartition("-v")[0]
        _check_subtask(place, label.id, level, subtask)
        return EpisodeSpec(id=f"{self.name}.{level}.{seed}", benchmark=self.name, task=level, seed=seed)


class AgentBoardPddl(AgentBoard[PddlLabel], Pddl):
    """The labelled problems: line n is the n-th of all, by domain and then by file name."""

    label, game = PddlLabel, PddlGame

    def _episode(self, label: PddlLabel, place: str) -> EpisodeSpec:
        name, number = _numbered(PROBLEMS, label.id, place)
        _check_subtask(place, label.id, name, label.subtask)
        domain = self.domains.get(name)
        # AgentBoard's engine sorts the names of files as text: problem10 comes before problem2.
        problems = sorted(domain.problems, key=lambda stem: f"{stem}.pddl") if domain else []
        if number >= len(problems):
            message = (
                f"{self._folder} has {len(problems)} problems of the domain {name}, but the label is about number "
                f"{number + 1}; let evaluation.data.pddl name AgentBoard's folder pddl."
            )
            raise label_error("episode_missing", place, message, domain=name, found=len(problems))
        problem = problems[number]
        id_ = f"{self.name}.{name}.{problem}"
        return EpisodeSpec(id=id_, benchmark=self.name, task=name, seed=number, variant=problem)


class AgentBoardJericho(AgentBoard[JerichoLabel], Jericho):
    """The labelled stories: line n is the n-th of AgentBoard's list."""

    label, game = JerichoLabel, JerichoGame

    def __init__(self, labels: Path, folder: Path) -> None:
        self._files = {file.stem: file.name for file in stories(folder)}
        super().__init__(labels, folder)

    def _episode(self, label: JerichoLabel, place: str) -> EpisodeSpec:
        story = _numbered(STORIES, label.id, place)
        if story not in self._files:
            message = f"there is no story {self._folder / story}.z5 or .z8; let the folder hold it."
            raise label_error("file_missing", place, message, file=self._folder, name=story)
        return EpisodeSpec(id=f"{self.name}/{self._files[story]}", benchmark=self.name, task=story, seed=0)


def agentboard(name: str, labels: Path, data: BenchmarkData) -> Benchmark:
    """The benchmark of this name by AgentBoard's labels in a file, on the games that `data` names.

    Raises:
        NotInstalledError: the games that are labelled are not here.
        UserError: a label cannot be read, or is about a game that is not in its folder; names the line.
    """
    if name == "sciworld":
        return AgentBoardSciWorld(labels, AgentBoardSimulator)
    if name == "babyai":
        return AgentBoardBabyAI(labels)
    given, own = data.model_dump()[name], labels.parent.parent / DATA["games"][name]
    if given is None and not own.is_dir():
        key = f"evaluation.data.{name}"
        message = f"{labels} labels games that are not here, neither in {own}; let {key} name their folder."
        raise NotInstalledError("not_installed", message, file=labels, key=key)
    forms: dict[str, type[AgentBoardAlfWorld | AgentBoardPddl | AgentBoardJericho]]
    forms = {"alfworld": AgentBoardAlfWorld, "pddl": AgentBoardPddl, "jericho": AgentBoardJericho}
    return forms[name](labels, Path(given) if given else own)


def _numbered(items: Sequence[ItemT], number: int, place: str) -> ItemT:
    """The episode that a label is about, by its id."""
    if number >= len(items):
        message = f"id {number} is too large; AgentBoard has {len(items)} episodes, numbered from 0."
        raise label_error("bad_value", place, message, key="id", value=number, episodes=len(items))
    return items[number]


def _check_subtask(place: str, number: int, wanted: str, found: str) -> None:
    if found != wanted:
        message = (
            f"id {number} is of {wanted} in AgentBoard, but additional_info.subtask says {found!r}; take the file as "
            "AgentBoard has it."
        )
        raise label_error("label_mismatch", place, message, expected=wanted, found=found)


def _older(words: str) -> str:
    """Commands of today's games as those before ALFWorld 0.4 have them."""
    return re.sub(r"\bmove (\w+ \d+) to (\w+ \d+)", r"put \1 in/on \2", words)


def _in_or_on(action: str) -> str:
    """`put mug in safe`, `put mug on desk` as older games word it (`parseAction` of agentboard/tasks/alfworld.py)."""
    if "put" not in action:
        return action
    return action.replace(" in ", " in/on ") if " in " in action else action.replace(" on ", " in/on ")


def _on_one_line(text: str) -> str:
    """A story's text as AgentBoard shows it (`clean_up_text`)."""
    return re.sub(r"\[Your score .*?\]", "", re.sub(r" {2,}", " ", text.replace("\n", " ")))
