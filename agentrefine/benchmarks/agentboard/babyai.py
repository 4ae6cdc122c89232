"""BabyAI as AgentBoard shows and plays it, with its labels (agentboard/environment/babyai_env.py).

Its labels match on the words of its observations, down to the numbers of equal objects, so that those are rendered here
as AgentBoard renders them. It lists the actions again at each step; an action is valid when it is listed, even where it
has no effect.
"""

from collections import Counter, deque
from typing import Any

from agentrefine.benchmarks.agentboard.labels import DATA, BabyAILabel, SubgoalPhrases, sentence_shows
from agentrefine.benchmarks.babyai.benchmark import (
    DIRECTIONS,
    PRIMITIVES,
    Act,
    BabyAIEnvironment,
    Position,
    Thing,
    View,
    name_of,
)
from agentrefine.benchmarks.base import StepResult
from agentrefine.benchmarks.common import LISTING, filled

TEXTS: dict[str, Any] = DATA["babyai"]
OBSTACLES = ("wall", "box", "lava", "ball", "key")
"""What cannot be walked through. Doors are no obstacle in AgentBoard's paths, not even closed ones."""

BARRIERS = ("wall", "box")
"""What an agent is said to face."""


class AgentBoardView(View):
    """The field of view in AgentBoard's words."""

    def order(self, forward: int, right: int) -> tuple[int, ...]:
        """Nearest first; of those the farthest ahead, then from left to right."""
        return forward + abs(right), -forward, right

    def describe(self) -> str:
        """The observation."""
        seen = [_text("object", name=thing.name, where=_where(thing)) for thing in self.things()]
        objects = "".join([_text("seen"), *seen]) if self.cells() else _text("nothing")
        carried = self._simulation.carrying
        held = _text("empty_handed") if carried is None else _text("carrying", name=name_of(carried))
        barrier = self.barrier(BARRIERS)
        facing = _text("barrier", name=barrier[0], forward=barrier[1]) if barrier else ""
        return f"{objects}{_text('walls')}{facing}{held}"

    def cells(self) -> dict[Position, str]:
        """What is seen, walls too, by position: the types of objects."""
        grid = self._simulation.grid
        here, _ = self._place()
        found = ((position, grid.get(*position)) for position in self._visible() if position != here)
        return {position: cell.type for position, cell in found if cell is not None and cell.type != "floor"}

    def path(self, thing: Thing, *, arrive: bool = False) -> list[int] | None:
        """AgentBoard's path to face a thing, or to stand where it is; None if there is none.

        It leads over everything that is not seen to be an obstacle, also where the agent does not see, and is not
        always the shortest: a place is reached from the last one that was looked at, not from the first.
        """
        blocked = {position for position, kind in self.cells().items() if kind in OBSTACLES}
        columns, rows = self._bounds()
        start = self._place()
        came: dict[Any, tuple[Any, int]] = {}
        queue, known = deque([start]), set()
        while queue:
            place = (x, y), direction = queue.popleft()
            known.add(place)
            ahead = (x + DIRECTIONS[direction][0], y + DIRECTIONS[direction][1])
            if thing.position == ((x, y) if arrive else ahead):
                actions = []
                while place != start:
                    place, action = came[place]
                    actions.append(action)
                return actions[::-1]
            turns: list[tuple[int, tuple[Position, int]]] = [(Act.FORWARD, (ahead, direction))]
            turns += [(Act.LEFT, ((x, y), (direction - 1) % 4)), (Act.RIGHT, ((x, y), (direction + 1) % 4))]
            for action, following in turns:
                inside = following[0][0] in columns and following[0][1] in rows
                if inside and following not in known and following[0] not in blocked:
                    queue.append(following)
                    came[following] = (place, action)
        return None

    def _bounds(self) -> tuple[range, range]:
        """The columns and rows in which AgentBoard looks for a path; they are not quite those that are seen."""
        simulation = self._simulation
        size = simulation.agent_view_size
        corner = simulation.agent_pos + simulation.dir_vec * (size - 1) - simulation.right_vec * (size // 2)
        other = corner + size * (simulation.right_vec - simulation.dir_vec)
        columns, rows = (
            range(int(b), int(a) + 1) if b < a else range(int(a), int(b)) for a, b in zip(corner, other, strict=True)
        )
        return columns, rows


class BabyAIGame(BabyAIEnvironment):
    """One labelled case."""

    def __init__(self, level: str, seed: int, label: BabyAILabel) -> None:
        super().__init__(level, seed)
        self.actions = {TEXTS["rename"].get(action, action): does for action, does in self.actions.items()}
        self.view: AgentBoardView = AgentBoardView(self._simulation)
        self._label = label

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        observation = super().reset()
        # AgentBoard's agents do not read in which order a mission's parts have to be done.
        self.goal = self._label.goal.replace("then", "and").replace("after you", "and")
        self._subgoals = SubgoalPhrases(self._label.subgoals, sentence_shows)
        self._valid = False
        return observation

    def step(self, action: str) -> StepResult:
        """Take one action of the agent, which may be many of the simulator's."""
        words = action.lower().strip().replace("pick up ", "pickup ", 1)
        if "check" in words:
            self._valid = True
            return self._unchanged("available", actions=", ".join([*self.listed(), LISTING]))
        plan = self.listed().get(words)
        if plan is None:
            self._valid = False
            return self._unchanged("unknown")
        if not plan:
            # AgentBoard keeps the validity of the action before.
            return self._unchanged("unchanged")
        self._valid = True
        observation, done = self._carry_out_plan(plan)
        self._subgoals.read(observation)
        share = self._subgoals.share()
        # The mission's end counts with more than half of the sub-goals; all of them are an end.
        over = done and share > 1 / 2
        if share == 1 and not over:
            over = True
            observation += _text("completed")
        return StepResult(observation, share, success=over, done=over, valid=True)

    def possible(self) -> list[str]:
        """The actions that are possible now."""
        return [words for words, plan in self.listed().items() if plan]

    def listed(self) -> dict[str, list[int]]:
        """The actions that AgentBoard lists now, each with those of the simulator."""
        things = self.view.things()
        barrier = self.view.barrier(BARRIERS)
        acts: list[int] = [Act.LEFT, Act.RIGHT]
        if barrier is None or barrier[1] > 1:
            acts.append(Act.FORWARD)
        plans: dict[str, list[int]] = {}
        if self._simulation.carrying is None:
            plans = self._numbered("pickup", [thing for thing in things if not thing.is_door], [Act.PICK_UP])
        else:
            x, y = map(int, self._simulation.front_pos)
            if self.view.cells().get((x, y), "") not in OBSTACLES:
                acts.append(Act.DROP)
        plans = {PRIMITIVES[act]: [act] for act in acts} | plans
        for thing in things:
            if thing.is_door:
                plans |= self._through(thing)
        return plans | self._numbered("go to", things, [])

    def _numbered(self, verb: str, things: list[Thing], then: list[int]) -> dict[str, list[int]]:
        """An action for each of the things that a path leads to; AgentBoard numbers equal ones among those only."""
        plans: dict[str, list[int]] = {}
        counts: Counter[str] = Counter()
        for thing in things:
            path = self.view.path(thing)
            if path is not None:
                kind = name_of(thing.object)
                counts[kind] += 1
                plans[f"{verb} {kind} {counts[kind]}"] = [*path, *then]
        return plans

    def _through(self, door: Thing) -> dict[str, list[int]]:
        if door.object.is_open:
            path = self.view.path(door, arrive=True)
            return {} if path is None else {f"go through {door.name}": path}
        if not self.opens(door.object):
            return {}
        path = self.view.path(door)
        plans = {} if path is None else {f"toggle and go through {door.name}": [*path, Act.TOGGLE, Act.FORWARD]}
        return plans | ({PRIMITIVES[Act.TOGGLE]: [Act.TOGGLE]} if path == [] else {})

    def _carry_out_plan(self, plan: list[int]) -> tuple[str, bool]:
        """Take the simulator's actions until one changes nothing that is seen. Whether the mission ended with it."""
        image, done = self._simulation.gen_obs()["image"], False
        for action in plan:
            seen, _, done, _, _ = self._simulation.step(action)
            if (seen["image"] == image).all():
                break
            image = seen["image"]
        return self.view.describe() + (_text("completed") if done else ""), done

    def _unchanged(self, text: str, **values: object) -> StepResult:
        """An answer that shows nothing of the game."""
        return StepResult(_text(text, **values), self._subgoals.share(), success=False, done=False, valid=self._valid)


def _text(text: str, /, **values: object) -> str:
    return filled(TEXTS[text], **values)


def _where(thing: Thing) -> str:
    side = "ahead" if thing.right == 0 else "right" if thing.right > 0 else "left"
    return _text(side, forward=thing.forward, side=abs(thing.right))
