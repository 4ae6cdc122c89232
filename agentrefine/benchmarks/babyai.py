"""BabyAI (Chevalier-Boisvert et al., ICLR 2019) as text, by AgentBoard's definitions, through `minigrid`.

The agent sees the objects in its field of view (7 x 7 cells before it) with their distances and acts by AgentBoard's
macro actions, which walk by the shortest path over visible free cells. Unlike AgentBoard, whose sub-goal labels are a
download of their own, progress and success are the simulator's, and the mission keeps its `then` and `after you`.
"""

# The simulator's objects have no types that a checker could use.
# ruff: noqa: ANN401

import contextlib
import io
import random
from collections import deque
from collections.abc import Callable, Sequence
from importlib import resources
from string import Template
from types import ModuleType
from typing import Any, NamedTuple

import yaml

from agentrefine.benchmarks.base import EpisodeSpec, SimulatorError, StepResult
from agentrefine.conversation import instructions
from agentrefine.errors import UserError
from agentrefine.files import short_hash

_DATA: dict[str, Any] = yaml.safe_load(
    resources.files("agentrefine.benchmarks").joinpath("babyai.yaml").read_text(encoding="utf-8")
)
LEVELS: dict[str, str] = _DATA["levels"]
SEEDS: list[int] = _DATA["seeds"]
TEXTS: dict[str, str] = _DATA["texts"]

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)
"""The simulator's actions, by its own numbers."""

PRIMITIVES = {LEFT: "turn left", RIGHT: "turn right", FORWARD: "move forward", DROP: "drop", TOGGLE: "toggle"}
DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
NO_STEP_LIMIT = 1_000_000
"""The simulator's own limit counts single cells; the player's limit counts the agent's turns and decides."""

GOLD_STEPS = 500
GOLD_SEARCHES = 300
"""Path searches that the bot may make for one action; it needs at most 50, and hangs for good on some levels."""

Position = tuple[int, int]


class Thing(NamedTuple):
    """An object in the field of view, by the name that the agent uses, such as `red ball 1`."""

    name: str
    object: Any
    position: Position
    forward: int
    right: int

    @property
    def is_door(self) -> bool:
        """Whether it is a door, open or not."""
        return bool(self.object.type == "door")


class Refusal(Exception):
    """Why an action is not possible now, in words for the agent."""


class BabyAIEnvironment:
    """One level with one seed. Valid: the action was possible and changed something, or was a look at the actions."""

    def __init__(self, level: str, seed: int) -> None:
        self.instructions = instructions(_DATA["actions"])
        self.goal = ""
        self._seed = seed
        self._progress = 0.0
        self._over = False
        self._simulation = _gymnasium().make(LEVELS[level], disable_env_checker=True).unwrapped

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        # The level generator prints the layouts that it rejects.
        with contextlib.redirect_stdout(io.StringIO()):
            self._simulation.reset(seed=self._seed)
        self._simulation.max_steps = NO_STEP_LIMIT
        self._progress, self._over = 0.0, False
        self.goal = str(self._simulation.mission)
        return self._describe()

    def step(self, action: str) -> StepResult:
        """Take one action of the agent, which may be many of the simulator's."""
        if self._over:
            return self._result(TEXTS["over"], success=False, valid=False)
        words = " ".join(action.lower().split())
        if words == "check available actions":
            return self._result(_text("available", actions=" , ".join(self.available())), success=False, valid=True)
        try:
            plan = self._plan(words)
        except Refusal as refusal:
            return self._result(str(refusal), success=False, valid=False)
        return self._carry_out(plan)

    def close(self) -> None:
        """Free the simulator."""
        self._simulation.close()

    def available(self) -> list[str]:
        """The actions that are possible now."""
        candidates = [PRIMITIVES[a] for a in (LEFT, RIGHT, FORWARD, DROP, TOGGLE)]
        verbs = ("go to", "pick up", "go through", "toggle and go through")
        candidates += [f"{verb} {thing.name}" for verb in verbs for thing in self.things()]
        return [words for words in candidates if self._is_possible(words)]

    def things(self) -> list[Thing]:
        """What the agent sees, nearest first, walls left out; equal names are numbered in that order."""
        simulation = self._simulation
        seen = []
        for position in self._visible():
            cell = simulation.grid.get(*position)
            if cell is not None and cell.type != "wall" and position != _position(simulation.agent_pos):
                forward, right = self._relative(position)
                seen.append((forward + abs(right), forward, right, position, cell))
        seen.sort(key=lambda item: item[:4])
        counts: dict[str, int] = {}
        things = []
        for _, forward, right, position, cell in seen:
            kind = _kind(cell)
            counts[kind] = counts.get(kind, 0) + 1
            things.append(Thing(f"{kind} {counts[kind]}", cell, position, forward, right))
        return things

    def front(self) -> Thing | None:
        """What stands on the cell before the agent."""
        return next((thing for thing in self.things() if (thing.forward, thing.right) == (1, 0)), None)

    def _result(self, observation: str, *, success: bool, valid: bool) -> StepResult:
        return StepResult(observation, self._progress, success=success, done=self._over, valid=valid)

    def _carry_out(self, plan: list[int]) -> StepResult:
        reward, changed = 0.0, False
        for action in plan:
            before = self._state()
            _, reward, self._over, _, _ = self._simulation.step(action)
            blocked = self._state() == before
            changed = changed or not blocked
            if self._over or blocked:
                break
        success = self._over and reward > 0
        earlier = self._progress
        self._progress = max(earlier, 1.0 if success else _progress(self._simulation.instrs))
        changed = changed or self._progress > earlier
        ending = [TEXTS["completed" if success else "failed"]] if self._over else []
        beginning = [] if changed else [TEXTS["nothing_changes"]]
        observation = " ".join([*beginning, self._describe(), *ending])
        return self._result(observation, success=success, valid=changed)

    def _plan(self, words: str) -> list[int]:
        """The simulator's actions for an action of the agent.

        Raises:
            Refusal: it is not known or not possible now.
        """
        for number, primitive in PRIMITIVES.items():
            if words == primitive:
                self._check_primitive(number)
                return [number]
        macros: dict[str, Callable[[Thing], list[int]]] = {
            "go to ": self._go_to,
            "pick up ": self._pick_up,
            "pickup ": self._pick_up,
            "go through ": self._go_through,
            "toggle and go through ": self._toggle_and_go_through,
        }
        for verb, macro in macros.items():
            if words.startswith(verb):
                name = words.removeprefix(verb)
                thing = next((thing for thing in self.things() if thing.name == name), None)
                if thing is None:
                    raise Refusal(TEXTS["not_seen"])
                return macro(thing)
        raise Refusal(TEXTS["unknown"])

    def _check_primitive(self, action: int) -> None:
        cell = self._simulation.grid.get(*self._simulation.front_pos)
        if action == FORWARD and cell is not None and not cell.can_overlap():
            raise Refusal(TEXTS["blocked"])
        if action == DROP and self._simulation.carrying is None:
            raise Refusal(TEXTS["nothing_to_drop"])
        if action == DROP and cell is not None:
            raise Refusal(TEXTS["no_room"])
        if action == TOGGLE:
            front = self.front()
            if front is None or front.object.type not in ("door", "box"):
                raise Refusal(TEXTS["no_door"])
            self._check_key(front)

    def _check_key(self, thing: Thing) -> None:
        carried = self._simulation.carrying
        locked = thing.is_door and thing.object.is_locked
        if locked and (carried is None or carried.type != "key" or carried.color != thing.object.color):
            raise Refusal(_text("needs_key", name=thing.name, color=thing.object.color))

    def _go_to(self, thing: Thing) -> list[int]:
        # Who faces it already does nothing, but lets the simulator see that the goal is reached.
        return self._path(thing) or [DONE]

    def _pick_up(self, thing: Thing) -> list[int]:
        carried = self._simulation.carrying
        if thing.is_door:
            raise Refusal(TEXTS["not_portable"])
        if carried is not None:
            raise Refusal(_text("hands_full", name=thing.name, carried=_kind(carried)))
        return [*self._path(thing), PICK_UP]

    def _go_through(self, thing: Thing) -> list[int]:
        if not thing.is_door:
            raise Refusal(_text("not_a_door", name=thing.name))
        if not thing.object.is_open:
            raise Refusal(_text("closed", name=thing.name))
        return [*self._path(thing), FORWARD]

    def _toggle_and_go_through(self, thing: Thing) -> list[int]:
        if not thing.is_door:
            raise Refusal(_text("not_a_door", name=thing.name))
        if thing.object.is_open:
            raise Refusal(_text("already_open", name=thing.name))
        self._check_key(thing)
        return [*self._path(thing), TOGGLE, FORWARD]

    def _path(self, thing: Thing) -> list[int]:
        """Fewest turns and steps to stand before `thing` and face it, over visible free cells."""
        simulation = self._simulation
        grid = simulation.grid
        free = {p for p in self._visible() if (cell := grid.get(*p)) is None or cell.can_overlap()} - {thing.position}
        start = (_position(simulation.agent_pos), int(simulation.agent_dir))
        came: dict[tuple[Position, int], list[int]] = {start: []}
        queue = deque([start])
        while queue:
            (x, y), direction = place = queue.popleft()
            ahead = (x + DIRECTIONS[direction][0], y + DIRECTIONS[direction][1])
            if ahead == thing.position:
                return came[place]
            following = [(LEFT, ((x, y), (direction - 1) % 4)), (RIGHT, ((x, y), (direction + 1) % 4))]
            if ahead in free:
                following.insert(0, (FORWARD, (ahead, direction)))
            for action, target in following:
                if target not in came:
                    came[target] = [*came[place], action]
                    queue.append(target)
        raise Refusal(_text("no_path", name=thing.name))

    def _is_possible(self, words: str) -> bool:
        try:
            return self._plan(words) != [DONE]
        except Refusal:
            return False

    def _visible(self) -> list[Position]:
        """The cells that the agent sees, its own included."""
        simulation = self._simulation
        _, mask = simulation.gen_obs_grid()
        size = simulation.agent_view_size
        ahead, right = simulation.dir_vec, simulation.right_vec
        cells = [
            _position(simulation.agent_pos + ahead * (size - 1 - j) + right * (i - size // 2))
            for i in range(size)
            for j in range(size)
            if mask[i, j]
        ]
        grid = simulation.grid
        return [(x, y) for x, y in cells if 0 <= x < grid.width and 0 <= y < grid.height]

    def _relative(self, position: Position) -> tuple[int, int]:
        """How far before the agent and how far to its right."""
        offset = [position[axis] - int(self._simulation.agent_pos[axis]) for axis in (0, 1)]
        ahead, right = self._simulation.dir_vec, self._simulation.right_vec
        return (
            int(offset[0] * ahead[0] + offset[1] * ahead[1]),
            int(offset[0] * right[0] + offset[1] * right[1]),
        )

    def _state(self) -> tuple[object, ...]:
        """What an action can change."""
        simulation = self._simulation
        cell = simulation.grid.get(*simulation.front_pos)
        held = None if simulation.carrying is None else _kind(simulation.carrying)
        return (
            _position(simulation.agent_pos),
            int(simulation.agent_dir),
            held,
            None if cell is None else _kind(cell),
        )

    def _describe(self) -> str:
        things = self.things()
        parts = [TEXTS["nothing"]]
        if things:
            listed = " , ".join(_text("object", name=thing.name, where=_where(thing)) for thing in things)
            parts = [TEXTS["seen"], listed, "."]
        visible = set(self._visible())
        x, y = _position(self._simulation.agent_pos)
        dx, dy = DIRECTIONS[int(self._simulation.agent_dir)]
        for forward in range(1, self._simulation.agent_view_size):
            position = (x + dx * forward, y + dy * forward)
            if position in visible and getattr(self._simulation.grid.get(*position), "type", None) == "wall":
                parts.append(_text("wall", forward=forward))
                break
        carried = self._simulation.carrying
        parts.append(TEXTS["empty_handed"] if carried is None else _text("carrying", name=_kind(carried)))
        return " ".join(parts)


class BabyAI:
    """AgentBoard's 112 BabyAI cases."""

    name = "babyai"
    progress_definition = "share of the mission's elementary instructions that the simulator's verifier counts as done"

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` of the 112 cases: each level once, in an order drawn by `seed`, then each a second time, ...

        Raises:
            UserError: `minigrid` is not installed.
        """
        _gymnasium()
        drawn = random.Random(short_hash("babyai", str(seed)))
        levels = drawn.sample(sorted(LEVELS), len(LEVELS))
        seeds = {level: drawn.sample(SEEDS, len(SEEDS)) for level in levels}
        cases = [(level, seeds[level][turn]) for turn in range(len(SEEDS)) for level in levels]
        return [
            EpisodeSpec(id=f"babyai.{level}.{case_seed}", benchmark=self.name, task=level, seed=case_seed)
            for level, case_seed in cases[:limit]
        ]

    def make(self, episode: EpisodeSpec) -> BabyAIEnvironment:
        """The environment of one episode."""
        return BabyAIEnvironment(episode.task, episode.seed)

    def gold(self, episode: EpisodeSpec) -> list[str] | None:
        """The steps of minigrid's own bot as the agent's actions, or None where it fails."""
        environment = self.make(episode)
        try:
            environment.reset()
            return _bot_actions(environment)
        finally:
            environment.close()


def _bot_actions(environment: BabyAIEnvironment) -> list[str] | None:
    from minigrid.utils.baby_ai_bot import BabyAIBot  # the simulator is optional

    class BoundedBot(BabyAIBot):  # type: ignore[misc]
        """The bot, stopped when it searches on and on without finding an action."""

        searches = 0

        def _breadth_first_search(self, *arguments: Any, **options: Any) -> Any:
            self.searches += 1
            if self.searches > GOLD_SEARCHES:
                raise SimulatorError("the bot found no action")
            return super()._breadth_first_search(*arguments, **options)

    bot = BoundedBot(environment._simulation)
    actions: list[str] = []
    taken: int | None = None
    while len(actions) < GOLD_STEPS:
        bot.searches = 0
        try:
            taken = int(bot.replan(taken))
        # The bot asserts that its plan is possible, and gives up on some levels in this way.
        except (SimulatorError, AssertionError):
            return None
        front = environment.front()
        if taken == PICK_UP and front is not None:
            actions.append(f"pick up {front.name}")
        elif taken == DONE and front is not None:
            actions.append(f"go to {front.name}")
        elif taken in PRIMITIVES:
            actions.append(PRIMITIVES[taken])
        else:
            return None
        result = environment.step(actions[-1])
        if result.success:
            return actions
        if result.done or not result.valid:
            return None
    return None


def _progress(instruction: Any) -> float:
    done, total = _done_of(instruction)
    return done / total


def _done_of(instruction: Any) -> tuple[int, int]:
    """How many elementary instructions of a mission are done, and how many there are.

    Only the parts of a sequence (`and`, `then`, `after you`) are remembered by the simulator's verifier.
    """
    from minigrid.envs.babyai.core.verifier import SeqInstr  # the simulator is optional

    if not isinstance(instruction, SeqInstr):
        return 0, 1
    done = total = 0
    for part, status in ((instruction.instr_a, instruction.a_done), (instruction.instr_b, instruction.b_done)):
        part_done, part_total = _done_of(part)
        done += part_total if status == "success" else part_done
        total += part_total
    return done, total


def _gymnasium() -> ModuleType:
    try:
        import gymnasium
        import minigrid  # noqa: F401  registers its levels
    except ImportError as error:
        raise UserError("the benchmark babyai needs the package minigrid: pip install 'minigrid>=3.0'.") from error
    module: ModuleType = gymnasium
    return module


def _text(text: str, /, **values: object) -> str:
    return Template(TEXTS[text]).substitute(values)


def _position(vector: Any) -> Position:
    return int(vector[0]), int(vector[1])


def _kind(cell: Any) -> str:
    """What the agent calls an object: its color, a door's state, its type."""
    if cell.type != "door":
        return f"{cell.color} {cell.type}"
    state = "open" if cell.is_open else "locked" if cell.is_locked else "closed"
    return f"{cell.color} {state} door"


def _where(thing: Thing) -> str:
    parts = [_text("ahead", forward=thing.forward)] if thing.forward else []
    if thing.right:
        parts.append(_text("beside", side=abs(thing.right), direction="right" if thing.right > 0 else "left"))
    return " and ".join(parts)
