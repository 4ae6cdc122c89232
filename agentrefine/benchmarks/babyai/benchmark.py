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
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from agentrefine.benchmarks.babyai.view import (
    DATA,
    DONE,
    DROP,
    FORWARD,
    LEFT,
    PICK_UP,
    RIGHT,
    TOGGLE,
    Thing,
    View,
    name_of,
    told,
)
from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, StepResult
from agentrefine.errors import NotInstalledError
from agentrefine.files import short_hash

LEVELS: dict[str, str] = DATA["levels"]
SEEDS: list[int] = DATA["seeds"]
PRIMITIVES = {LEFT: "turn left", RIGHT: "turn right", FORWARD: "move forward", DROP: "drop", TOGGLE: "toggle"}
NO_STEP_LIMIT = 1_000_000
"""The simulator's own limit counts single cells; the player's limit counts the agent's turns and decides."""

GOLD_STEPS = 500
GOLD_SEARCHES = 300
"""Path searches that the bot may make for one action; it needs at most 50, and hangs for good on some levels."""


class CommandRefusedError(Exception):
    """Why an action is not possible now, in words for the agent."""


class BabyAIEnvironment:
    """One level with one seed. Valid: the action was possible and changed something, or was a look at the actions.

    Attributes:
        view: what the agent sees now.
    """

    def __init__(self, level: str, seed: int) -> None:
        self.actions: dict[str, str] = DATA["actions"]
        self.goal = ""
        self._seed = seed
        self._progress = 0.0
        self._over = False
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
            return self._result(told("over"), success=False, valid=False)
        words = " ".join(action.lower().split())
        if words == "check available actions":
            return self._result(told("available", actions=", ".join(self.possible())), success=False, valid=True)
        try:
            plan = self._plan(words)
        except CommandRefusedError as refusal:
            return self._result(str(refusal), success=False, valid=False)
        return self._carry_out(plan)

    def close(self) -> None:
        """Free the simulator."""
        self._simulation.close()

    def possible(self) -> list[str]:
        """The actions that are possible now."""
        candidates = [PRIMITIVES[a] for a in (LEFT, RIGHT, FORWARD, DROP, TOGGLE)]
        verbs = ("go to", "pick up", "go through", "toggle and go through")
        candidates += [f"{verb} {thing.name}" for verb in verbs for thing in self.view.things()]
        return [words for words in candidates if self._is_possible(words)]

    def _result(self, observation: str, *, success: bool, valid: bool) -> StepResult:
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
        earlier = self._progress
        self._progress = max(earlier, 1.0 if success else _progress(self._simulation.instrs))
        changed = changed or self._progress > earlier
        ending = [told("completed" if success else "failed")] if self._over else []
        beginning = [] if changed else [told("nothing_changes")]
        observation = " ".join([*beginning, self.view.describe(), *ending])
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
                thing = next((thing for thing in self.view.things() if thing.name == name), None)
                if thing is None:
                    raise CommandRefusedError(told("not_seen"))
                return macro(thing)
        raise CommandRefusedError(told("unknown"))

    def _check_primitive(self, action: int) -> None:
        cell = self._simulation.grid.get(*self._simulation.front_pos)
        if action == FORWARD and cell is not None and not cell.can_overlap():
            raise CommandRefusedError(told("blocked"))
        if action == DROP and self._simulation.carrying is None:
            raise CommandRefusedError(told("nothing_to_drop"))
        if action == DROP and cell is not None:
            raise CommandRefusedError(told("no_room"))
        if action == TOGGLE:
            front = self.view.front()
            if front is None or front.object.type not in ("door", "box"):
                raise CommandRefusedError(told("no_door"))
            self._check_key(front)

    def _check_key(self, thing: Thing) -> None:
        carried = self._simulation.carrying
        locked = thing.is_door and thing.object.is_locked
        if locked and (carried is None or carried.type != "key" or carried.color != thing.object.color):
            raise CommandRefusedError(told("needs_key", name=thing.name, color=thing.object.color))

    def _go_to(self, thing: Thing) -> list[int]:
        # Who faces it already does nothing, but lets the simulator see that the goal is reached.
        return self._way(thing) or [DONE]

    def _pick_up(self, thing: Thing) -> list[int]:
        carried = self._simulation.carrying
        if thing.is_door:
            raise CommandRefusedError(told("not_portable"))
        if carried is not None:
            raise CommandRefusedError(told("hands_full", name=thing.name, carried=name_of(carried)))
        return [*self._way(thing), PICK_UP]

    def _go_through(self, thing: Thing) -> list[int]:
        if not thing.is_door:
            raise CommandRefusedError(told("not_a_door", name=thing.name))
        if not thing.object.is_open:
            raise CommandRefusedError(told("closed", name=thing.name))
        return [*self._way(thing), FORWARD]

    def _toggle_and_go_through(self, thing: Thing) -> list[int]:
        if not thing.is_door:
            raise CommandRefusedError(told("not_a_door", name=thing.name))
        if thing.object.is_open:
            raise CommandRefusedError(told("already_open", name=thing.name))
        self._check_key(thing)
        return [*self._way(thing), TOGGLE, FORWARD]

    def _way(self, thing: Thing) -> list[int]:
        path = self.view.path(thing)
        if path is None:
            raise CommandRefusedError(told("no_path", name=thing.name))
        return path

    def _is_possible(self, words: str) -> bool:
        try:
            return self._plan(words) != [DONE]
        except CommandRefusedError:
            return False


class BabyAI:
    """AgentBoard's 112 BabyAI cases."""

    name = "babyai"
    progress_definition = "share of the mission's elementary instructions that the simulator's verifier counts as done"

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` of the 112 cases: each level once, in an order drawn by `seed`, then each a second time, ...

        Raises:
            NotInstalledError: `minigrid` is not installed.
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

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The steps of minigrid's own bot as the agent's actions.

        Raises:
            NoSolutionError: the bot fails.
        """
        environment = self.make(episode)
        try:
            environment.reset()
            return _bot_actions(environment)
        finally:
            environment.close()


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
        if taken == PICK_UP and front is not None:
            actions.append(f"pick up {front.name}")
        elif taken == DONE and front is not None:
            actions.append(f"go to {front.name}")
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
        raise NotInstalledError(
            "the benchmark babyai needs the package minigrid: pip install 'minigrid>=3.0'."
        ) from error
    module: ModuleType = gymnasium
    return module
