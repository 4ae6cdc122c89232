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
from itertools import islice
from types import ModuleType
from typing import Any

from agentrefine.benchmarks.babyai.view import DATA, Act, Thing, View, name_of, text_of
from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, StepResult
from agentrefine.benchmarks.simulators import LISTING, round_robin
from agentrefine.errors import package_missing
from agentrefine.files import short_hash

LEVELS: dict[str, str] = DATA["levels"]
SEEDS: list[int] = DATA["seeds"]
PRIMITIVES: dict[int, str] = {
    Act.LEFT: "turn left", Act.RIGHT: "turn right", Act.FORWARD: "move forward", Act.DROP: "drop", Act.TOGGLE: "toggle",
}  # fmt: skip
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
        verbs = ("go to", "pick up", "go through", "toggle and go through")
        macros = [f"{verb} {thing.name}" for verb in verbs for thing in self.view.things()]
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
        earlier = self._progress
        done, total = _done_of(self._simulation.instrs)
        self._progress = max(earlier, 1.0 if success else done / total)
        changed = changed or self._progress > earlier
        ending = [text_of("completed" if success else "failed")] if self._over else []
        beginning = [] if changed else [text_of("nothing_changes")]
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
                thing = next((thing for thing in self.view.things() if thing.name == words.removeprefix(verb)), None)
                if thing is None:
                    raise CommandRefusedError(text_of("not_seen"))
                return macro(thing)
        raise CommandRefusedError(text_of("unknown"))

    def _check_primitive(self, action: int) -> None:
        cell = self._simulation.grid.get(*self._simulation.front_pos)
        if action == Act.FORWARD and cell is not None and not cell.can_overlap():
            raise CommandRefusedError(text_of("blocked"))
        if action == Act.DROP and self._simulation.carrying is None:
            raise CommandRefusedError(text_of("nothing_to_drop"))
        if action == Act.DROP and cell is not None:
            raise CommandRefusedError(text_of("no_room"))
        if action == Act.TOGGLE:
            front = self.view.front()
            if front is None or front.object.type not in ("door", "box"):
                raise CommandRefusedError(text_of("no_door"))
            self._check_key(front)

    def _check_key(self, thing: Thing) -> None:
        if thing.is_door and not self.opens(thing.object):
            raise CommandRefusedError(text_of("needs_key", name=thing.name, color=thing.object.color))

    def opens(self, door: Any) -> bool:
        """Whether the agent can open a door: it is not locked, or the agent carries its key."""
        carried = self._simulation.carrying
        has_key = carried is not None and carried.type == "key" and carried.color == door.color
        return bool(not door.is_locked or has_key)

    def _go_to(self, thing: Thing) -> list[int]:
        # Who faces it already does nothing, but lets the simulator see that the goal is reached.
        return self._way(thing) or [Act.DONE]

    def _pick_up(self, thing: Thing) -> list[int]:
        carried = self._simulation.carrying
        if thing.is_door:
            raise CommandRefusedError(text_of("not_portable"))
        if carried is not None:
            raise CommandRefusedError(text_of("hands_full", name=thing.name, carried=name_of(carried)))
        return [*self._way(thing), Act.PICK_UP]

    def _go_through(self, thing: Thing) -> list[int]:
        if not thing.is_door:
            raise CommandRefusedError(text_of("not_a_door", name=thing.name))
        if not thing.object.is_open:
            raise CommandRefusedError(text_of("closed", name=thing.name))
        return [*self._way(thing), Act.FORWARD]

    def _toggle_and_go_through(self, thing: Thing) -> list[int]:
        if not thing.is_door:
            raise CommandRefusedError(text_of("not_a_door", name=thing.name))
        if thing.object.is_open:
            raise CommandRefusedError(text_of("already_open", name=thing.name))
        self._check_key(thing)
        return [*self._way(thing), Act.TOGGLE, Act.FORWARD]

    def _way(self, thing: Thing) -> list[int]:
        path = self.view.path(thing)
        if path is None:
            raise CommandRefusedError(text_of("no_path", name=thing.name))
        return path

    def _is_possible(self, words: str) -> bool:
        try:
            return self._plan(words) != [Act.DONE]
        except CommandRefusedError:
            return False


class BabyAI:
    """AgentBoard's 112 BabyAI cases."""

    name = "babyai"
    progress_definition = "share of the mission's elementary instructions that the simulator's verifier counts as done"

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` of the 112 cases: each level once, in an order drawn by `seed`, then a second time, ..."""
        _gymnasium()
        drawn = random.Random(short_hash("babyai", str(seed)))
        levels = drawn.sample(sorted(LEVELS), len(LEVELS))
        seeds = {level: drawn.sample(SEEDS, len(SEEDS)) for level in levels}
        cases = round_robin([(level, case_seed) for case_seed in seeds[level]] for level in levels)
        return [
            EpisodeSpec(id=f"babyai.{level}.{case_seed}", benchmark=self.name, task=level, seed=case_seed)
            for level, case_seed in islice(cases, limit)
        ]

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
        if taken == Act.PICK_UP and front is not None:
            actions.append(f"pick up {front.name}")
        elif taken == Act.DONE and front is not None:
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
        raise package_missing("babyai", "minigrid", "'minigrid>=3.0'") from error
    module: ModuleType = gymnasium
    return module
