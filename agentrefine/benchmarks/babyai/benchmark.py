"""BabyAI (Chevalier-Boisvert et al., ICLR 2019) as text, by AgentBoard's definitions, through `minigrid`.

The agent sees the objects in its field of view (7 x 7 cells before it) with their distances and acts by AgentBoard's
macro actions, which walk by the shortest path over visible free cells. Unlike AgentBoard, whose sub-goal labels are a
download of their own, progress and success are the simulator's, and the mission keeps its `then` and `after you`.
"""

import contextlib
import io
import random
from collections import Counter, deque
from collections.abc import Iterator
from enum import IntEnum
from types import ModuleType
from typing import Any, NamedTuple

from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, StepResult
from agentrefine.benchmarks.common import LISTING, DrawnBenchmark, data_of, filled, imported, round_robin
from agentrefine.files import short_hash

DATA = data_of("babyai", "babyai.yaml")
"""Levels, seeds, actions and texts."""

LEVELS: dict[str, str] = DATA["levels"]
SEEDS: list[int] = DATA["seeds"]
NO_STEP_LIMIT = 1_000_000
"""The simulator's own limit counts single cells; the player's limit counts the agent's turns and decides."""

GOLD_STEPS = 500
GOLD_SEARCHES = 300
"""Path searches that the bot may make for one action; it needs at most 50, and hangs for good on some levels."""


class Act(IntEnum):
    """The simulator's actions, by its own numbers."""

    LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)


PRIMITIVES: dict[int, str] = {
    Act.LEFT: "turn left", Act.RIGHT: "turn right", Act.FORWARD: "move forward", Act.DROP: "drop", Act.TOGGLE: "toggle",
}  # fmt: skip

MACROS = ("go to", "pick up", "pickup", "go through", "toggle and go through")
DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""One cell ahead, by the simulator's number of the direction that the agent faces."""

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


class View:
    """The field of view in a running level: 7 x 7 cells before the agent, as far as walls and doors let it see."""

    def __init__(self, simulation: Any) -> None:
        self._simulation = simulation

    def things(self) -> list[Thing]:
        """What the agent sees, nearest first, walls left out; equal names are numbered in that order."""
        here, _ = self._place()
        cells = {position: self._simulation.grid.get(*position) for position in self._visible() if position != here}
        seen = [
            (self._relative(position), position, cell)
            for position, cell in cells.items()
            if cell is not None and cell.type != "wall"
        ]
        counts: Counter[str] = Counter()
        things = []
        for offset, position, cell in sorted(seen, key=lambda item: (*self.order(*item[0]), item[1])):
            kind = name_of(cell)
            counts[kind] += 1
            things.append(Thing(f"{kind} {counts[kind]}", cell, position, *offset))
        return things

    def order(self, forward: int, right: int) -> tuple[int, ...]:
        """What decides who comes first, for an object so far before the agent and so far to its right."""
        return forward + abs(right), forward, right

    def front(self) -> Thing | None:
        """What stands on the cell before the agent."""
        return next((thing for thing in self.things() if (thing.forward, thing.right) == (1, 0)), None)

    def path(self, thing: Thing) -> list[int] | None:
        """Fewest turns and steps to face `thing` from before it, over visible free cells; None if no path leads."""
        grid = self._simulation.grid
        free = {p for p in self._visible() if (cell := grid.get(*p)) is None or cell.can_overlap()} - {thing.position}
        start = self._place()
        came: dict[tuple[Position, int], list[int]] = {start: []}
        queue = deque([start])
        while queue:
            (x, y), direction = place = queue.popleft()
            ahead = (x + DIRECTIONS[direction][0], y + DIRECTIONS[direction][1])
            if ahead == thing.position:
                return came[place]
            following = [(Act.LEFT, ((x, y), (direction - 1) % 4)), (Act.RIGHT, ((x, y), (direction + 1) % 4))]
            for action, target in [(Act.FORWARD, (ahead, direction))] * (ahead in free) + following:
                if target not in came:
                    came[target] = [*came[place], action]
                    queue.append(target)
        return None

    def state(self) -> tuple[object, ...]:
        """What an action can change."""
        cell = self._simulation.grid.get(*self._simulation.front_pos)
        held = self._simulation.carrying
        return *self._place(), None if held is None else name_of(held), None if cell is None else name_of(cell)

    def describe(self) -> str:
        """The observation: what the agent sees and where, the wall ahead, and what it carries."""
        things = self.things()
        listed = "; ".join(text_of("object", name=thing.name, where=_where(thing)) for thing in things)
        parts = [text_of("seen"), f"{listed}."] if things else [text_of("nothing")]
        wall = self.barrier(("wall",))
        if wall:
            parts.append(text_of("wall", forward=_steps(wall[1])))
        carried = self._simulation.carrying
        parts.append(text_of("empty_handed") if carried is None else text_of("carrying", name=name_of(carried)))
        return " ".join(parts)

    def barrier(self, kinds: tuple[str, ...]) -> tuple[str, int] | None:
        """The nearest object of these types straight ahead, and how many steps away it is."""
        visible = set(self._visible())
        (x, y), direction = self._place()
        dx, dy = DIRECTIONS[direction]
        for forward in range(1, self._simulation.agent_view_size):
            position = (x + dx * forward, y + dy * forward)
            cell = self._simulation.grid.get(*position) if position in visible else None
            if cell is not None and cell.type in kinds:
                return str(cell.type), forward
        return None

    def _place(self) -> tuple[Position, int]:
        """Where the agent stands, and the direction that it faces."""
        return _position(self._simulation.agent_pos), int(self._simulation.agent_dir)

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
        return int(offset[0] * ahead[0] + offset[1] * ahead[1]), int(offset[0] * right[0] + offset[1] * right[1])


def text_of(text: str, /, **values: object) -> str:
    """A text of babyai.yaml with its values."""
    return filled(DATA["texts"][text], **values)


def name_of(cell: Any) -> str:
    """What the agent calls an object: its color, a door's state, its type."""
    if cell.type != "door":
        return f"{cell.color} {cell.type}"
    state = "open" if cell.is_open else "locked" if cell.is_locked else "closed"
    return f"{cell.color} {state} door"


def _position(vector: Any) -> Position:
    return int(vector[0]), int(vector[1])


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _where(thing: Thing) -> str:
    parts = [text_of("ahead", forward=_steps(thing.forward))] if thing.forward else []
    if thing.right:
        parts.append(text_of("beside", side=_steps(abs(thing.right)), direction="right" if thing.right > 0 else "left"))
    return " and ".join(parts)


class CommandRefusedError(Exception):
    """Why an action is not possible now, as a text of babyai.yaml with its values."""

    def __init__(self, text: str, **values: object) -> None:
        super().__init__(text_of(text, **values))


class BabyAIEnvironment:
    """One level with one seed. Valid: the action was possible and changed something, or was a look at the actions.

    Attributes:
        view: what the agent sees now.
    """

    def __init__(self, level: str, seed: int) -> None:
        self.actions: dict[str, str] = DATA["actions"]
        self.goal = ""
        self._seed = seed
        self._simulation = _gymnasium().make(LEVELS[level], disable_env_checker=True).unwrapped
        self.view = View(self._simulation)

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        # The level generator prints the layouts that it rejects.
        with contextlib.redirect_stdout(io.StringIO()):
            self._simulation.reset(seed=self._seed)
        self._simulation.max_steps = NO_STEP_LIMIT
        self._progress, self._over = 0.0, False
        self.goal = str(self._simulation.mission)
        return self.view.describe()

    def step(self, action: str) -> StepResult:
        """Take one action of the agent, which may be many of the simulator's."""
        if self._over:
            return self._result(text_of("over"), valid=False)
        words = " ".join(action.lower().split())
        if words == LISTING:
            return self._result(text_of("available", actions=", ".join(self.possible())), valid=True)
        try:
            return self._carry_out(self._plan(words))
        except CommandRefusedError as refusal:
            return self._result(str(refusal), valid=False)

    def close(self) -> None:
        """Free the simulator."""
        self._simulation.close()

    def possible(self) -> list[str]:
        """The actions that are possible now."""
        macros = [f"{verb} {thing.name}" for verb in MACROS if verb != "pickup" for thing in self.view.things()]
        return [words for words in [*PRIMITIVES.values(), *macros] if self._is_possible(words)]

    def _result(self, observation: str, *, success: bool = False, valid: bool) -> StepResult:
        return StepResult(observation, self._progress, success=success, done=self._over, valid=valid)

    def _carry_out(self, plan: list[int]) -> StepResult:
        reward, changed = 0.0, False
        for action in plan:
            before = self.view.state()
            _, reward, self._over, _, _ = self._simulation.step(action)
            blocked = self.view.state() == before
            changed = changed or not blocked
            if self._over or blocked:
                break
        success = self._over and reward > 0
        done, total = _done_of(self._simulation.instrs)
        earlier, self._progress = self._progress, max(self._progress, 1.0 if success else done / total)
        changed = changed or self._progress > earlier
        parts = [] if changed else [text_of("nothing_changes")]
        parts.append(self.view.describe())
        parts += [text_of("completed" if success else "failed")] if self._over else []
        return self._result(" ".join(parts), success=success, valid=changed)

    def _plan(self, words: str) -> list[int]:
        """The simulator's actions for an action of the agent.

        Raises:
            CommandRefusedError: it is not known or not possible now.
        """
        for number, primitive in PRIMITIVES.items():
            if words == primitive:
                self._check_primitive(number)
                return [number]
        verb = next((verb for verb in MACROS if words.startswith(f"{verb} ")), None)
        if verb is None:
            raise CommandRefusedError("unknown")
        thing = next((thing for thing in self.view.things() if thing.name == words.removeprefix(f"{verb} ")), None)
        if thing is None:
            raise CommandRefusedError("not_seen")
        return self._macro(verb, thing)

    def _check_primitive(self, action: int) -> None:
        cell = self._simulation.grid.get(*self._simulation.front_pos)
        if action == Act.FORWARD and cell is not None and not cell.can_overlap():
            raise CommandRefusedError("blocked")
        if action == Act.DROP and (self._simulation.carrying is None or cell is not None):
            raise CommandRefusedError("nothing_to_drop" if self._simulation.carrying is None else "no_room")
        if action == Act.TOGGLE:
            front = self.view.front()
            if front is None or front.object.type not in ("door", "box"):
                raise CommandRefusedError("no_door")
            self._check_key(front)

    def _check_key(self, thing: Thing) -> None:
        if thing.is_door and not self.opens(thing.object):
            raise CommandRefusedError("needs_key", name=thing.name, color=thing.object.color)

    def opens(self, door: Any) -> bool:
        """Whether the agent can open a door: it is not locked, or the agent carries its key."""
        carried = self._simulation.carrying
        has_key = carried is not None and carried.type == "key" and carried.color == door.color
        return bool(not door.is_locked or has_key)

    def _macro(self, verb: str, thing: Thing) -> list[int]:
        if verb == "go to":
            # Who faces it already does nothing, but lets the simulator see that the goal is reached.
            return self._path(thing) or [Act.DONE]
        if verb in ("pick up", "pickup"):
            carried = self._simulation.carrying
            if thing.is_door:
                raise CommandRefusedError("not_portable")
            if carried is not None:
                raise CommandRefusedError("hands_full", name=thing.name, carried=name_of(carried))
            return [*self._path(thing), Act.PICK_UP]
        if not thing.is_door:
            raise CommandRefusedError("not_a_door", name=thing.name)
        toggles = verb == "toggle and go through"
        if thing.object.is_open == toggles:
            raise CommandRefusedError("already_open" if toggles else "closed", name=thing.name)
        self._check_key(thing)
        return [*self._path(thing), *([Act.TOGGLE] if toggles else []), Act.FORWARD]

    def _path(self, thing: Thing) -> list[int]:
        path = self.view.path(thing)
        if path is None:
            raise CommandRefusedError("no_path", name=thing.name)
        return path

    def _is_possible(self, words: str) -> bool:
        try:
            return self._plan(words) != [Act.DONE]
        except CommandRefusedError:
            return False


class BabyAI(DrawnBenchmark):
    """AgentBoard's 112 BabyAI cases."""

    name = "babyai"
    progress_definition = "share of the mission's elementary instructions that the simulator's verifier counts as done"

    def check_installed(self) -> None:
        """Make sure that minigrid is installed."""
        _gymnasium()

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """The 112 cases: each level once, in an order drawn by `seed`, then each a second time, ..."""
        rng = random.Random(short_hash("babyai", str(seed)))
        levels = rng.sample(sorted(LEVELS), len(LEVELS))
        seeds = {level: rng.sample(SEEDS, len(SEEDS)) for level in levels}
        for level, case_seed in round_robin([(level, case_seed) for case_seed in seeds[level]] for level in levels):
            yield EpisodeSpec(id=f"babyai.{level}.{case_seed}", benchmark=self.name, task=level, seed=case_seed)

    def make(self, episode: EpisodeSpec) -> BabyAIEnvironment:
        """The environment of one episode."""
        return BabyAIEnvironment(episode.task, episode.seed)

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The steps of minigrid's own bot as the agent's actions."""
        with contextlib.closing(self.make(episode)) as environment:
            environment.reset()
            return _bot_actions(environment)


def _bot_actions(environment: BabyAIEnvironment) -> list[str]:
    from minigrid.utils.baby_ai_bot import BabyAIBot  # the simulator is optional

    class BoundedBot(BabyAIBot):  # type: ignore[misc]
        """The bot, stopped when it searches on and on without finding an action."""

        searches = 0

        def _breadth_first_search(self, *arguments: Any, **options: Any) -> Any:
            self.searches += 1
            if self.searches > GOLD_SEARCHES:
                raise NoSolutionError(f"minigrid's bot found no action within {GOLD_SEARCHES} searches")
            return super()._breadth_first_search(*arguments, **options)

    bot = BoundedBot(environment._simulation)
    actions: list[str] = []
    taken: int | None = None
    while len(actions) < GOLD_STEPS:
        bot.searches = 0
        try:
            taken = int(bot.replan(taken))
        # The bot asserts that its plan is possible, and gives up on some levels in this way.
        except AssertionError as error:
            raise NoSolutionError(f"minigrid's bot gave up after {len(actions)} actions") from error
        front = environment.view.front()
        if taken in (Act.PICK_UP, Act.DONE) and front is not None:
            actions.append(f"{'pick up' if taken == Act.PICK_UP else 'go to'} {front.name}")
        elif taken in PRIMITIVES:
            actions.append(PRIMITIVES[taken])
        else:
            raise NoSolutionError(f"minigrid's bot takes the step {taken}, which is no action of the agent here")
        result = environment.step(actions[-1])
        if result.success:
            return actions
        if result.done:
            raise NoSolutionError(f"minigrid counts the mission as failed after its bot's {actions[-1]!r}")
        if not result.valid:
            raise NoSolutionError(f"minigrid's bot takes an action that changes nothing, {actions[-1]!r}")
    raise NoSolutionError(f"minigrid's bot was not done after {GOLD_STEPS} actions")


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
    """The package that makes minigrid's levels."""
    return imported("babyai", "minigrid", "gymnasium", "minigrid", requirement="minigrid>=3.0")
