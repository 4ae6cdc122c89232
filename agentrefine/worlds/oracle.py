"""Planning: greedy best-first search with the FF heuristic (Hoffmann and Nebel 2001, "The FF Planning System").

A world is grounded once; states are bit masks. The search expands lazily and prefers the actions of the relaxed plan.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from agentrefine.worlds.family import Action, Binding, Fact, Family, Index, Move, index, matches, parameters, type_of

if TYPE_CHECKING:
    from agentrefine.worlds.layout import World

_EXPANSIONS = 500
_UNPREFERRED = 1000


class GroundAction(NamedTuple):
    """An action with its objects, as bit masks over the problem's facts.

    Attributes:
        move: the action with the names that fill its template.
        text: the action as a player writes it, in canonical wording.
        travel: it only brings the player elsewhere.
        requires: the facts that must hold, in the order of the preconditions.
        needs, forbids, adds, deletes: masks.
    """

    move: Move
    text: str
    travel: bool
    requires: tuple[Fact, ...]
    needs: int
    forbids: int
    adds: int
    deletes: int

    def applicable(self, state: int) -> bool:
        """Whether the action can be done in a state."""
        return self.needs & ~state == 0 and self.forbids & state == 0

    def apply(self, state: int) -> int:
        """The state after the action."""
        return state & ~self.deletes | self.adds


class PlanningProblem(NamedTuple):
    """A grounded world: every action that the static facts allow.

    Attributes:
        bits: each fact's bit.
        facts: the facts in the order of their bits.
        actions: ground actions in the family's order.
        by_text: the same by their text; those of one text differ in objects that the text does not name.
    """

    bits: dict[Fact, int]
    facts: list[Fact]
    actions: list[GroundAction]
    by_text: dict[str, list[GroundAction]]

    def mask(self, facts: Iterable[Fact]) -> int:
        """The mask of those facts that play a role in the problem."""
        total = 0
        for fact in facts:
            total |= self.bits.get(fact, 0)
        return total


class Relaxed(NamedTuple):
    """A relaxed plan: its length, and its actions that can be done at once."""

    length: int
    helpful: list[GroundAction]


def solve(world: World) -> list[str]:
    """A plan for a world, with full knowledge of it. Worlds that `draw_world` returns always have one.

    Raises:
        ValueError: there is no plan.
    """
    plan = find_plan(world.problem, world.start, [condition.fact for condition in world.conditions])
    if plan is None:
        raise ValueError(f"world {world.id} has no plan")
    return [action.text for action in plan]


def find_plan(problem: PlanningProblem, state: Iterable[Fact], goal: Sequence[Fact]) -> list[GroundAction] | None:
    """Actions that lead from a state to all goal facts, without needless ones; None where there are none."""
    if any(fact not in problem.bits for fact in goal):
        return None
    return search(problem, problem.mask(state), problem.mask(goal))


def search(problem: PlanningProblem, start: int, goal: int) -> list[GroundAction] | None:
    """`find_plan` on masks."""
    counter = 0
    queue: list[tuple[int, int, int, tuple[object, ...]]] = [(0, 0, start, ())]
    seen = {start}
    for _ in range(_EXPANSIONS):
        if not queue:
            return None
        _, _, state, path = heapq.heappop(queue)
        if goal & ~state == 0:
            return _without_needless(problem, _unwind(path), start, goal)
        relaxed = relaxed_plan(problem, state, goal)
        if relaxed is None:
            continue
        preferred = {action.text for action in relaxed.helpful}
        for action in problem.actions:
            if not action.applicable(state):
                continue
            successor = action.apply(state)
            if successor not in seen or goal & ~successor == 0:
                seen.add(successor)
                counter -= 1
                priority = relaxed.length if action.text in preferred else relaxed.length + _UNPREFERRED
                heapq.heappush(queue, (priority, counter, successor, (action, path)))
    return None


def _unwind(path: tuple[object, ...]) -> list[GroundAction]:
    actions: list[GroundAction] = []
    node: object = path
    while isinstance(node, tuple) and node:
        action, node = node
        actions.append(action)
    return actions[::-1]


def _without_needless(problem: PlanningProblem, plan: list[GroundAction], start: int, goal: int) -> list[GroundAction]:
    """Drop single actions and pairs (such as taking and putting back) that the goal does not need."""
    for rest in _shortened(plan):
        again = replay(problem, [action.text for action in rest], start, goal)
        if again is not None:
            return _without_needless(problem, again, start, goal)
    return plan


def _shortened(plan: list[GroundAction]) -> Iterator[tuple[GroundAction, ...]]:
    for kept in range(len(plan) - 1, max(len(plan) - 3, 0), -1):
        yield from combinations(plan, kept)


def replay(problem: PlanningProblem, texts: Sequence[str], state: int, goal: int) -> list[GroundAction] | None:
    """The ground actions that texts stand for from a state on; None if one is impossible or the goal is missed."""
    plan: list[GroundAction] = []
    for text in texts:
        action = next((a for a in problem.by_text[text] if a.applicable(state)), None)
        if action is None:
            return None
        plan.append(action)
        state = action.apply(state)
    return None if goal & ~state else plan


def relaxed_plan(problem: PlanningProblem, state: int, goal: int) -> Relaxed | None:
    """A plan that ignores what actions delete and forbid; None where not even that reaches the goal."""
    supporter = _supporters(problem, state, goal)
    if supporter is None:
        return None
    used: dict[str, GroundAction] = {}
    done = state
    needed = goal & ~state
    while needed:
        bit = needed & -needed
        done |= bit
        action = supporter[bit]
        used[action.text] = action
        needed = (needed | action.needs) & ~done
    return Relaxed(len(used), [a for a in used.values() if a.needs & ~state == 0])


def _supporters(problem: PlanningProblem, state: int, goal: int) -> dict[int, GroundAction] | None:
    supporter: dict[int, GroundAction] = {}
    reached, remaining = state, problem.actions
    while goal & ~reached:
        layer, later = 0, []
        for action in remaining:
            if action.needs & ~reached:
                later.append(action)
                continue
            new = action.adds & ~(reached | layer)
            layer |= new
            while new:
                bit = new & -new
                supporter[bit] = action
                new ^= bit
        if not layer:
            return None
        reached |= layer
        remaining = later
    return supporter


def reachable(problem: PlanningProblem, state: int) -> int:
    """The facts that can be reached when nothing is deleted: an upper bound of what is possible."""
    reached, remaining = state, problem.actions
    while True:
        before, later = reached, []
        for action in remaining:
            if action.needs & ~before:
                later.append(action)
            else:
                reached |= action.adds
        if reached == before:
            return reached
        remaining = later


def problem_of(rules: Family, members: Mapping[str, Sequence[str]], start: Iterable[Fact]) -> PlanningProblem:
    """Ground a family's actions over a world's objects, as far as its static facts allow."""
    facts = index(start)
    problem = PlanningProblem({}, [], [], {})
    for template, action in rules.actions.items():
        for binding in _bindings(rules, action, template, members, facts):
            ground = _ground(problem, template, action, binding)
            if ground.needs & ground.forbids == 0:
                problem.actions.append(ground)
                problem.by_text.setdefault(ground.text, []).append(ground)
    return problem


def _bindings(
    rules: Family, action: Action, template: str, members: Mapping[str, Sequence[str]], facts: Index
) -> Iterator[Binding]:
    bindings: list[Binding] = [{}]
    variables = list(parameters(template))
    for condition in action.requires:
        variables += [v for v in condition.fact.variables if v not in variables]
        if condition.fact.predicate in rules.static and not condition.fact.negated:
            bindings = [m for binding in bindings for m in matches(condition.fact, facts, members, binding)]
    for variable in variables:
        bindings = [
            binding if variable in binding else {**binding, variable: name}
            for binding in bindings
            for name in (members[type_of(variable)] if variable not in binding else ("",))
        ]
    yield from bindings


def _ground(problem: PlanningProblem, template: str, action: Action, binding: Binding) -> GroundAction:
    requires = tuple(p.fact.ground(binding) for p in action.requires if not p.fact.negated)
    needs = forbids = adds = deletes = 0
    for fact in requires:
        needs |= _bit(problem, fact)
    for condition in action.requires:
        if condition.fact.negated:
            forbids |= _bit(problem, condition.fact.ground(binding))
    for effect in action.effects:
        if effect.negated:
            deletes |= _bit(problem, effect.ground(binding))
        else:
            adds |= _bit(problem, effect.ground(binding))
    move = Move(template, {name: binding[name] for name in parameters(template)})
    return GroundAction(move, move.text, action.travel, requires, needs, forbids, adds, deletes)


def _bit(problem: PlanningProblem, fact: Fact) -> int:
    bit = problem.bits.get(fact)
    if bit is None:
        bit = 1 << len(problem.facts)
        problem.bits[fact] = bit
        problem.facts.append(fact)
    return bit
