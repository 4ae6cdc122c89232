"""ALFWorld (Shridhar et al., ICLR 2021) through `textworld`'s PDDL engine, with ALFWorld's own rules and texts.

The episodes are the unseen games of the data set where the user has it (`evaluation.data.alfworld`), else games that
are made offline over the same six task types. Every game is played in the words of its file's grammar.
"""

import ast
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrefine.benchmarks.alfworld.house import DATA, LIGHT, TASKS, TWO, game_of
from agentrefine.benchmarks.base import Environment, EpisodeSpec, NoSolutionError, SimulatorError, StepResult
from agentrefine.benchmarks.common import LISTING, data_of, drawn_games, filled, rng_of, round_robin
from agentrefine.benchmarks.simulators import SimulatorBenchmark, TextSimulator, command, games_folder, tidy
from agentrefine.benchmarks.worker import GIB, Limits, Opening, RemoteEnvironment
from agentrefine.errors import file_error
from agentrefine.files import write_json
from agentrefine.params.evaluation import BenchmarkData
from agentrefine.worlds.language import Paraphrase

if TYPE_CHECKING:  # the simulator is optional
    from textworld import GameState
    from textworld.envs import PddlEnv

TEXTS: dict[str, str] = DATA["texts"]
DATA_FOLDER = "ALFWORLD_DATA"
UNSEEN = "valid_unseen"
GAME_FILE = "game.tw-pddl"
PERTURBATIONS: dict[str, dict[str, str]] = data_of("alfworld", "perturbations.yaml")
NAME = r"[a-z]+ [0-9]+"
"""A thing's name in ALFWorld's games, such as `sinkbasin 1`."""
LIMITS = Limits(start=120, step=30, gold=120, memory=4 * GIB)
_CHANGED = {
    "pick_clean_then_place_in_recep": "isclean",
    "pick_heat_then_place_in_recep": "ishot",
    "pick_cool_then_place_in_recep": "iscool",
}


def alfworld_folder(data: BenchmarkData) -> str | None:
    """The folder of ALFWorld's games: the one of params.yaml, else the one of ALFWorld's own variable."""
    return data.alfworld or os.environ.get(DATA_FOLDER)


class ALFWorld(SimulatorBenchmark):
    """ALFWorld's games, spread over the six task types."""

    progress_definition = "best share of the goal's conditions that hold at the same time for one choice of objects"

    package = "alfworld"

    def __init__(self, folder: Path | None = None) -> None:
        # The worker finds the folder where ALFWorld's own programs do.
        limits = LIMITS._replace(variables={DATA_FOLDER: str(folder.resolve())}) if folder else LIMITS
        super().__init__("alfworld", ALFWorldSimulator, limits)
        self._folder = folder

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """The data set's games, with the `variant` `valid_unseen`; games that are made here where there are none."""
        if self._folder:
            return self._published(unseen_folder(self._folder), seed)
        return drawn_games(self.name, TASKS, seed)

    def _published(self, folder: Path, seed: int) -> Iterator[EpisodeSpec]:
        games: dict[str, list[str]] = {task: [] for task in TASKS}
        for file in sorted(folder.rglob(GAME_FILE)):
            task = file.relative_to(folder).parts[0].partition("-")[0]
            if task in games and not re.search("Sliced|movable", str(file.relative_to(folder))):
                games[task].append(file.parent.relative_to(folder).as_posix())
        if not any(games.values()):
            message = f"there is no game; expected {GAME_FILE} files, as alfworld-download writes."
            raise file_error("no_games", folder, message)
        rng = rng_of("episodes", self.name, seed)
        for names in games.values():
            rng.shuffle(names)
        for name in round_robin(games.values()):
            task = re.split("[-/]", name, maxsplit=1)[0]
            yield EpisodeSpec(id=f"{self.name}/{name}", benchmark=self.name, task=task, seed=0, variant=UNSEEN)


class ALFWorldSimulator(TextSimulator):
    """Plays ALFWorld's games. Valid: the rules allow the action now."""

    texts = TEXTS
    _engine: "PddlEnv"
    _game: dict[str, Any]
    _state: "GameState"

    def __init__(self) -> None:
        from textworld.envs.pddl.textgen import EvalSymbol, TerminalSymbol

        def derive(symbol: Any, context: Any = None) -> list[Any]:  # noqa: ANN401
            return [TerminalSymbol(value_of(symbol.expression, (context or symbol.context)["variables"]))]

        EvalSymbol.derive = derive

    def start(self, episode: EpisodeSpec) -> Opening:
        """Begin an episode, whose game is made where there is none yet."""
        self._game = _game(episode)
        self._engine = _loaded(self._game)
        self._state = self._engine.reset()
        self._progress = 0.0
        _, observation, task = tidy(self._state["feedback"]).split("\n", 2)
        older = {} if "move {o} to {r}" in self._game["grammar"] else DATA["older_forms"]
        actions = {older.get(template, template): does for template, does in DATA["actions"].items()}
        return Opening(actions, task.removeprefix("Your task is to: ").strip(), observation)

    def _standing(self) -> tuple[float, bool, bool]:
        won = bool(self._state["won"])
        return 1.0 if won else self._progress, won, won

    def _is_known(self, words: str) -> bool:
        """Whether an action is possible now: the engine would search for all that is possible to refuse the others."""
        return words in self._state["admissible_commands"]

    def _take(self, words: str) -> tuple[str, bool]:
        self._state, _, _ = self._engine.step(words)
        self._progress = max(self._progress, progress(self._game, self._state["_facts"]))
        return tidy(self._state["feedback"]), True

    def possible(self) -> list[str]:
        """The commands that the game admits now."""
        return list(self._state["admissible_commands"])

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The planner's solution, which the game's file holds."""
        actions: list[str] | None = _game(episode)["walkthrough"]
        if not actions:
            raise NoSolutionError("the game's file holds no walkthrough: the planner found none")
        return actions


def perturbation(name: str, templates: Iterable[str]) -> Paraphrase:
    """One of `PERTURBATIONS` for the templates of a game."""
    other = PERTURBATIONS[name]
    return Paraphrase(name, {template: other.get(template, template) for template in templates}, NAME)


def game_perturbation(episode: EpisodeSpec) -> Paraphrase:
    """The perturbation of an episode, to render commands of games of any age."""
    return perturbation(episode.perturbation, [*DATA["actions"], *DATA["older_forms"].values()])


class PerturbedEnvironment:
    """A perturbed ALFWorld game. Valid: as in the game; a command in ALFWorld's own form is not known.

    Commands are read with a perturbation's templates and passed on in ALFWorld's own, so that nothing is lost either
    way. What describes, lists or repeats a command follows the perturbation; everything else is the game's.
    """

    def __init__(self, game: Environment, name: str) -> None:
        self._game = game
        self._perturbation = perturbation(name, ())

    @property
    def goal(self) -> str:
        """The task in words."""
        return self._game.goal

    @property
    def actions(self) -> Mapping[str, str]:
        """The game's templates, perturbed, with their descriptions."""
        return self._perturbation.paraphrase_actions(self._game.actions)

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        observation = self._game.reset()
        self._perturbation = perturbation(self._perturbation.name, self._game.actions)
        return observation

    def step(self, action: str) -> StepResult:
        """Take one action."""
        known = self._perturbation.parse(command(action) or "") or ""
        result = self._game.step(known)
        if not result.valid:
            return result
        if known == LISTING:
            return result._replace(observation=filled(TEXTS["available"], actions=", ".join(self.possible())))
        return result._replace(observation=self._perturbation.repeat(result.observation, known))

    def possible(self) -> list[str]:
        """The commands that the game admits now, less those that are not described to the agent."""
        admitted = ((own, self._perturbation.render(own)) for own in self._game.possible())
        return [other for own, other in admitted if self._perturbation.parse(other) == own]

    def close(self) -> None:
        """Free the game."""
        self._game.close()


class PerturbedALFWorld(SimulatorBenchmark):
    """The games of `ALFWorld`, each with five perturbations of its commands (paper, robustness study).

    An episode's id is the game's, a slash and the perturbation's name.
    """

    name = "alfworld_perturbed"
    progress_definition = ALFWorld.progress_definition

    def __init__(self, folder: Path | None = None) -> None:
        self._games = ALFWorld(folder)
        self.workers = self._games.workers

    def check_installed(self) -> None:
        """Make sure that ALFWorld is installed."""
        self._games.check_installed()

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """The games of `ALFWorld`, each with all perturbations before the next."""
        for game in self._games.drawn(seed):
            for name in PERTURBATIONS:
                yield game.model_copy(update={"id": f"{game.id}/{name}", "benchmark": self.name, "perturbation": name})

    def make(self, episode: EpisodeSpec) -> PerturbedEnvironment:
        """The environment of one episode."""
        return PerturbedEnvironment(RemoteEnvironment(self.workers, self._game(episode)), episode.perturbation)

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The game's solution in the episode's perturbed commands."""
        return [game_perturbation(episode).render(action) for action in self._games.gold(self._game(episode))]

    def _game(self, episode: EpisodeSpec) -> EpisodeSpec:
        game_id = episode.id.removesuffix(f"/{episode.perturbation}")
        return episode.model_copy(update={"id": game_id, "benchmark": self._games.name, "perturbation": ""})


def unseen_folder(root: Path) -> Path:
    """The folder of unseen games in a data set's folder.

    Raises:
        UserError: there is none.
    """
    found = [root] if root.name == UNSEEN else sorted(root.glob(f"*/{UNSEEN}")) + sorted(root.glob(UNSEEN))
    if not found or not found[-1].is_dir():
        message = (
            f"there is no folder {UNSEEN}; let evaluation.data.alfworld (or {DATA_FOLDER}) name the folder that "
            "alfworld-download wrote, or none to play games that are made here."
        )
        raise file_error("file_missing", root, message, name=UNSEEN)
    return found[-1]


def progress(game: Mapping[str, Any], facts: Iterable[Any]) -> float:
    """The share of a goal's conditions that hold, for the objects for which most hold.

    Conditions are: the object lies in the place, and is clean, hot or cool where that is asked for; each of two objects
    lies in the same place; the object is held, and the lamp at hand is on.
    """
    holds: dict[str, set[tuple[str, ...]]] = {}
    for fact in facts:
        holds.setdefault(fact.name, set()).add(tuple(variable.name for variable in fact.arguments))
    task = game["task_type"]
    kinds = {role: f"{kind}Type".lower() for role, kind in game["pddl_params"].items() if isinstance(kind, str)}
    targets = {name for name, kind in holds.get("objecttype", ()) if kind == kinds["object_target"]}
    places = {name for name, kind in holds.get("receptacletype", ()) if kind == kinds["parent_target"]}
    inside = [(thing, place) for thing, place in holds.get("inreceptacle", ()) if thing in targets and place in places]
    if task == TWO:
        most = max((sum(at == place for _, at in inside) for place in places), default=0)
        return min(2, most) / 2
    if task == LIGHT:
        lamps = {name for name, kind in holds.get("objecttype", ()) if kind == kinds["toggle_target"]}
        held = any(thing in targets for _, thing in holds.get("holds", ()))
        lit = any(lamp in lamps for (lamp,) in holds.get("istoggled", ()))
        return (held + lit) / 2
    if task not in _CHANGED:
        return float(bool(inside))
    changed = {thing for (thing,) in holds.get(_CHANGED[task], ())} & targets
    placed = {thing for thing, _ in inside}
    return max((((thing in changed) + (thing in placed)) / 2 for thing in targets), default=0.0)


def value_of(expression: str, variables: Mapping[str, Any]) -> str:
    """What an expression of a game's grammar says, such as `o.indefinite + ' ' + o.name`.

    Raises:
        SimulatorError: it is more than names, texts, `+` and `or`. The engine would run any Python.
    """
    return str(_value(ast.parse(expression.strip(), mode="eval").body, variables))


def _value(node: ast.expr, variables: Mapping[str, Any]) -> Any:  # noqa: ANN401  an entity or a text
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name) and node.id in variables:
        return variables[node.id]
    if isinstance(node, ast.Attribute) and node.attr in ("id", "name", "type", "indefinite", "definite"):
        return getattr(_value(node.value, variables), node.attr)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _value(node.left, variables) + _value(node.right, variables)
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return next((value for part in node.values if (value := _value(part, variables))), "")
    raise SimulatorError(f"the game's grammar holds {ast.unparse(node)[:80]!r}, which is no name or text")


def _game(episode: EpisodeSpec) -> dict[str, Any]:
    """An episode's game: from the data set, else from the cache, else made now."""
    if episode.variant == UNSEEN:
        folder = unseen_folder(Path(os.environ[DATA_FOLDER])) / episode.id.partition("/")[2]
        game = json.loads((folder / GAME_FILE).read_text(encoding="utf-8"))
        trajectory = json.loads((folder / "traj_data.json").read_text(encoding="utf-8"))
        return {**game, "task_type": trajectory["task_type"], "pddl_params": trajectory["pddl_params"]}
    from alfworld.info import __version__

    file = games_folder("alfworld") / str(__version__) / f"{episode.task}.{episode.seed}.json"
    if not file.is_file():
        game = game_of(episode.task, episode.seed)
        state = _loaded(game, policy_commands=True).reset()
        write_json(file, {**game, "walkthrough": state["policy_commands"] or None})
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _loaded(game: Mapping[str, Any], **wanted: bool) -> "PddlEnv":
    from alfworld.agents.utils.misc import Demangler
    from textworld import EnvInfos
    from textworld.envs import PddlEnv

    engine = PddlEnv(EnvInfos(won=True, admissible_commands=True, **wanted))
    engine.load(game)
    words = Demangler(game_infos=engine._entity_infos)
    for entity in engine._entity_infos.values():
        entity.name = re.sub(r"\s+", " ", words.demangle_alfred_name(entity.id)).strip()
    return engine
