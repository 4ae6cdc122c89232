"""Solutions of planning problems."""

# The planning library has no types that a checker could use.
# ruff: noqa: ANN401

from typing import Any

from agentrefine.benchmarks.base import NoSolutionError
from agentrefine.benchmarks.pddl.planner import MAX_STATES, PddlAction, plan
from agentrefine.benchmarks.pddl.problem import GroundedAction, PddlProblem


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
    if (
        effect.is_conditional()
        or effect.is_forall()
        or not effect.is_assignment()
        or not effect.value.is_bool_constant()
    ):
        raise _NotStripsError
    return effect.fluent, bool(effect.value.bool_constant_value())
