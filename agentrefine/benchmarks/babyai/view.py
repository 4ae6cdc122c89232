"""What the agent sees of a BabyAI level, in words, and the path to what it sees."""

# The simulator's objects have no types that a checker could use.
# ruff: noqa: ANN401

from collections import Counter, deque
from enum import IntEnum
from typing import Any, NamedTuple

from agentrefine.benchmarks.base import data_of, filled

DATA = data_of("babyai", "babyai.yaml")
"""Levels, seeds, actions and texts."""


class Act(IntEnum):
    """The simulator's actions, by its own numbers."""

    LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)


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
