"""Planning: greedy best-first search with the FF heuristic (Hoffmann and Nebel 2001, "The FF Planning System").

A world is grounded once; states are bit masks. The search expands lazily and prefers the actions of the relaxed plan.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import combinations
from operator import or_
from typing import NamedTuple

from agentrefine.worlds.facts import Binding, Fact, Index, Move, index, matches, type_of
from agentrefine.worlds.family import Action, Family
from agentrefine.worlds.language import parameters

MAX_EXPANSIONS = 500
"""States that a search expands before it gives up."""
UNPREFERRED = 1000
"""Added to the heuristic of a state that no action of the relaxed plan leads to."""


class GroundAction(NamedTuple):
    """An action with its objects, as bit masks over the problem's facts.

    Attributes:
        move: the action with the names that fill its template.
        text: the action as a player writes it, in canonical form.
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
        actions: ground actions in the family's order.
        by_text: the same by their text; those of one text differ in objects that the text does not name.
    """

    bits: dict[Fact, int]
    actions: list[GroundAction]
    by_text: dict[str, list[GroundAction]]

    def mask(self, facts: Iterable[Fact]) -> int:
        """The mask of those facts that play a role in the problem."""
        return reduce(or_, (self.bits.get(fact, 0) for fact in facts), 0)


def find_plan(problem: PlanningProblem, state: Iterable[Fact], goal: Sequence[Fact]) -> list[GroundAction] | None:
    """Actions that lead from a state to all goal facts, without needless ones; None where there are none."""
    if any(fact not in problem.bits for fact in goal):
        return None
    return search(problem, problem.mask(state), problem.mask(goal))


def search(problem: PlanningProblem, start: int, goal: int) -> list[GroundAction] | None:
    """`find_plan` on masks."""
    counter = 0
    queue: list[tuple[int, int, int, tuple[GroundAction, ...]]] = [(0, 0, start, ())]
    seen = {start}
    for _ in range(MAX_EXPANSIONS):
        if not queue:
            return None
        _, _, state, plan = heapq.heappop(queue)
        if goal & ~state == 0:
            return _without_needless(problem, list(plan), start, goal)
        relaxed = _relaxed_plan(problem, state, goal)
        if relaxed is None:
            continue
        preferred = {text for text, action in relaxed.items() if action.needs & ~state == 0}
        for action in problem.actions:
            if not action.applicable(state):
                continue
            successor = action.apply(state)
            if successor not in seen or goal & ~successor == 0:
                seen.add(successor)
                counter -= 1
                priority = len(relaxed) if action.text in preferred else len(relaxed) + UNPREFERRED
                heapq.heappush(queue, (priority, counter, successor, (*plan, action)))
    return None


def _without_needless(problem: PlanningProblem, plan: list[GroundAction], start: int, goal: int) -> list[GroundAction]:
    """Drop single actions and pairs (such as taking and putting back) that the goal does not need."""
    for kept in range(len(plan) - 1, max(len(plan) - 3, 0), -1):
        for rest in combinations(plan, kept):
            shorter = replay(problem, [action.text for action in rest], start, goal)
            if shorter is not None:
                return _without_needless(problem, shorter, start, goal)
    return plan


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


def _relaxed_plan(problem: PlanningProblem, state: int, goal: int) -> dict[str, GroundAction] | None:
    """A plan that ignores what actions delete and forbid, by text; None where not even that reaches the goal."""
    reached, supporter = _relax(problem, state, goal)
    if goal & ~reached:
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
    return used


def reachable(problem: PlanningProblem, state: int) -> int:
    """The facts that can be reached when nothing is deleted: an upper bound of what is possible."""
    return _relax(problem, state, problem.mask(problem.bits))[0]


def _relax(problem: PlanningProblem, state: int, goal: int) -> tuple[int, dict[int, GroundAction]]:
    """The facts that are reached when nothing is deleted, until the goal is, and for each the action that adds it."""
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
            break
        reached |= layer
        remaining = later
    return reached, supporter


def problem_of(rules: Family, members: Mapping[str, Sequence[str]], start: Iterable[Fact]) -> PlanningProblem:
    """Ground a family's actions over a world's objects, as far as its static facts allow."""
    facts = index(start)
    problem = PlanningProblem({}, [], {})
    for template, action in rules.actions.items():
        for binding in _bindings(rules, action, template, members, facts):
            ground = _ground(problem, template, action, binding)
            if ground.needs & ground.forbids == 0:
                problem.actions.append(ground)
                problem.by_text.setdefault(ground.text, []).append(ground)
    return problem


def _bindings(
    rules: Family, action: Action, template: str, members: Mapping[str, Sequence[str]], facts: Index
) -> list[Binding]:
    bindings: list[Binding] = [{}]
    for condition in action.requires:
        if condition.fact.predicate in rules.static and not condition.fact.negated:
            bindings = [m for binding in bindings for m in matches(condition.fact, facts, members, binding)]
    for variable in (*parameters(template), *(v for p in action.requires for v in p.fact.variables)):
        if bindings and variable not in bindings[0]:
            names = members[type_of(variable)]
            bindings = [{**binding, variable: name} for binding in bindings for name in names]
    return bindings


def _ground(problem: PlanningProblem, template: str, action: Action, binding: Binding) -> GroundAction:
    needs = tuple(p.fact.ground(binding) for p in action.requires if not p.fact.negated)
    forbids = [p.fact.ground(binding) for p in action.requires if p.fact.negated]
    effects = [(effect.ground(binding), effect.negated) for effect in action.effects]
    for fact in (*needs, *forbids, *(fact for fact, _ in effects)):
        problem.bits.setdefault(fact, 1 << len(problem.bits))
    move = Move(template, {name: binding[name] for name in parameters(template)})
    return GroundAction(
        move=move,
        text=move.text,
        travel=action.travel,
        requires=needs,
        needs=problem.mask(needs),
        forbids=problem.mask(forbids),
        adds=problem.mask(fact for fact, negated in effects if not negated),
        deletes=problem.mask(fact for fact, negated in effects if negated),
    )
