"""Solutions of planning problems: greedy best-first search with the FF heuristic (Hoffmann and Nebel, JAIR 2001).

The search is over STRIPS actions. A fact is a number; an action that needs a fact to be false needs the number of its
opposite.
"""

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

from agentrefine.benchmarks.base import NoSolutionError
from agentrefine.benchmarks.pddl.problem import GroundedAction, PddlProblem

MAX_STATES = 5_000
"""States that are looked at before a problem is given up: a limit that is the same on every machine."""

BOOST = 1_000
"""Turns that the first queue has for itself each time the search has come nearer to the goal."""


class PddlAction(NamedTuple):
    """An action with its objects: facts that have to hold, that hold afterwards, and that hold no more unless added."""

    needs: frozenset[int]
    adds: frozenset[int]
    deletes: frozenset[int]


class _NotStripsError(Exception):
    """A condition or an effect that is more than facts that hold or do not hold."""


def solution(problem: PddlProblem) -> list[GroundedAction]:
    """Actions with their objects that reach the goal.

    Raises:
        NoSolutionError: the planner finds none, actions are too many, or a condition is more than facts that hold or do
            not hold together, or an effect depends on a condition.
    """
    if problem.ground_actions is None:
        raise NoSolutionError("there are too many actions to search")
    numbers: dict[tuple[Any, bool], int] = {}

    def number(atom: Any, value: bool) -> int:
        return numbers.setdefault((atom, value), len(numbers))

    def needed(conditions: list[Any]) -> frozenset[int]:
        return frozenset(number(*_literal(part)) for part in conditions)

    try:
        goal = needed(problem.goals)
        actions = []
        for ground in problem.ground_actions:
            effects = map(_effect, ground.action.effects)
            changes = [(problem.put(atom, ground.values), value) for atom, value in effects]
            added = [atom for atom, value in changes if value]
            removed = [atom for atom, value in changes if not value and atom not in added]
            holding = [number(atom, True) for atom in added] + [number(atom, False) for atom in removed]
            ending = [number(atom, False) for atom in added] + [number(atom, True) for atom in removed]
            actions.append(PddlAction(needed(ground.conditions), frozenset(holding), frozenset(ending)))
    except _NotStripsError as error:
        raise NoSolutionError("the planner reads no conditions or effects beyond facts and their opposites") from error
    true = set(problem.true_atoms(problem.initial))
    initial = frozenset(at for (atom, value), at in numbers.items() if (atom in true) == value)
    found = plan(actions, initial, goal)
    if found is None:
        raise NoSolutionError(f"the planner found no plan within {MAX_STATES:,} states")
    return [problem.ground_actions[step] for step in found]


def _literal(condition: Any) -> tuple[Any, bool]:
    if condition.is_not() and condition.arg(0).is_fluent_exp():
        return condition.arg(0), False
    if not condition.is_fluent_exp():
        raise _NotStripsError
    return condition, True


def _effect(effect: Any) -> tuple[Any, bool]:
    always = not effect.is_conditional() and not effect.is_forall()
    if not always or not effect.is_assignment() or not effect.value.is_bool_constant():
        raise _NotStripsError
    return effect.fluent, bool(effect.value.bool_constant_value())


def plan(actions: Sequence[PddlAction], initial: frozenset[int], goal: frozenset[int]) -> list[int] | None:
    """Positions in `actions` of those that lead from `initial` to `goal`; None where none are found in `MAX_STATES`.

    States wait in two queues, by the length of the relaxed plan from the state before, then the earlier first: what an
    action of that relaxed plan leads to waits in the first one, everything in the second. The queues take turns; one
    that has led nearer to the goal is preferred (as in LAMA: Richter and Westphal, JAIR 2010).
    """
    relaxed = _RelaxedPlan(actions, goal)
    parents: dict[frozenset[int], tuple[frozenset[int], int] | None] = {initial: None}
    queues: tuple[list[tuple[int, int, frozenset[int]]], ...] = ([], [(0, 0, initial)])
    turns = [0, 0]
    looked_at: set[frozenset[int]] = set()
    nearest = None
    pushed = 0
    while any(queues) and len(looked_at) < MAX_STATES:
        turn = min((0, 1), key=lambda number: (not queues[number], turns[number]))
        turns[turn] += 1
        _, _, state = heapq.heappop(queues[turn])
        if goal <= state:
            return _path(parents, state)
        if state in looked_at:
            continue
        looked_at.add(state)
        wanted = relaxed.actions(state)
        if wanted is None:
            continue
        if nearest is None or len(wanted) < nearest:
            nearest = len(wanted)
            turns[0] -= BOOST
        for number, action in enumerate(actions):
            if action.needs <= state:
                following = (state - action.deletes) | action.adds
                if following not in parents:
                    parents[following] = (state, number)
                    pushed += 1
                    for queue in queues if number in wanted else queues[1:]:
                        heapq.heappush(queue, (len(wanted), pushed, following))
    return None


def _path(parents: dict[frozenset[int], tuple[frozenset[int], int] | None], state: frozenset[int]) -> list[int]:
    steps = []
    while (came := parents[state]) is not None:
        state, number = came
        steps.append(number)
    return steps[::-1]


class _RelaxedPlan:
    """Plans that leave every fact true that once was: short to find, and a guess at the length of a real one."""

    def __init__(self, actions: Sequence[PddlAction], goal: frozenset[int]) -> None:
        self._actions = actions
        self._goal = goal
        self._wanting: dict[int, list[int]] = {}
        for number, action in enumerate(actions):
            for fact in action.needs:
                self._wanting.setdefault(fact, []).append(number)
        self._free = [number for number, action in enumerate(actions) if not action.needs]

    def actions(self, state: frozenset[int]) -> set[int] | None:
        """The actions of a relaxed plan from `state`; None where there is no plan at all."""
        supporter = self._supporters(state)
        plan_actions: set[int] = set()
        wanted = list(self._goal)
        seen = set(state)
        while wanted:
            fact = wanted.pop()
            if fact in seen:
                continue
            if fact not in supporter:
                return None
            seen.add(fact)
            plan_actions.add(supporter[fact])
            wanted += self._actions[supporter[fact]].needs
        return plan_actions

    def _supporters(self, state: frozenset[int]) -> dict[int, int]:
        """For each fact that can become true the cheapest action that adds it, by the sum of its needs' costs."""
        cost = dict.fromkeys(state, 0)
        supporter: dict[int, int] = {}
        missing = [len(action.needs) for action in self._actions]
        price = [1] * len(self._actions)
        queue = [(0, fact) for fact in state]
        ready = list(self._free)
        done: set[int] = set()
        while queue or ready:
            while ready:
                number = ready.pop()
                for fact in self._actions[number].adds:
                    if price[number] < cost.get(fact, price[number] + 1):
                        cost[fact] = price[number]
                        supporter[fact] = number
                        heapq.heappush(queue, (price[number], fact))
            if not queue:
                break
            value, fact = heapq.heappop(queue)
            if fact in done:
                continue
            done.add(fact)
            for number in self._wanting.get(fact, ()):
                missing[number] -= 1
                price[number] += value
                if not missing[number]:
                    ready.append(number)
        return supporter
