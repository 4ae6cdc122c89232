"""A planning problem that is played by `unified-planning`."""

# The planning library has no types that a checker could use.
# ruff: noqa: ANN401

import warnings
from collections.abc import Iterator
from functools import cached_property
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

from agentrefine.benchmarks.pddl_text import mended
from agentrefine.errors import UserError

MAX_GROUND_ACTIONS = 100_000
"""Actions with objects put in for parameters, possible or not; more are neither listed nor planned with."""


class PddlProblem:
    """A domain with one problem. States are those of `unified-planning`, conditions its expressions.

    Attributes:
        domain: what the domain calls itself.
        actions: by name.
        objects: names, in the order of declaration.
        initial: the first state.
        goals: conditions that have to hold together.
    """

    def __init__(self, domain: Path, problem: Path) -> None:
        """Read the files.

        Raises:
            UserError: `unified-planning` is not installed; a file is missing or not PDDL that it can play.
        """
        library = planning_library()
        texts = mended(domain, problem)
        self.domain = texts.name
        self._problem = _read(library, texts.domain, texts.problem, problem)
        self.actions: dict[str, Any] = {action.name: action for action in self._problem.actions}
        self.objects: list[str] = [item.name for item in self._problem.all_objects]
        self._simulator = library.engines.UPSequentialSimulator(self._problem)
        self._evaluator = library.model.walkers.StateEvaluator(self._problem)
        self.initial = self._simulator.get_initial_state()
        self.goals = conjuncts(self._problem.goals)
        if not self.goals:
            raise UserError(f"{problem}: the goal is empty; name what has to be true.")
        self._atoms = [
            atom
            for fluent in self._problem.fluents
            if fluent.type.is_bool_type()
            for atom in library.model.fluent.get_all_fluent_exp(self._problem, fluent)
        ]

    @property
    def predicates(self) -> list[tuple[str, list[str]]]:
        """Each predicate with the names of its parameters."""
        return [(fluent.name, [item.name for item in fluent.signature]) for fluent in self._problem.fluents]

    def objects_by_type(self) -> dict[str, list[str]]:
        """The names of the objects of each type."""
        kinds: dict[str, list[str]] = {}
        for item in self._problem.all_objects:
            kinds.setdefault(item.type.name, []).append(item.name)
        return kinds

    def true_atoms(self, state: Any) -> list[Any]:
        """What is true in a state, by predicate and object in the order of declaration."""
        return [atom for atom in self._atoms if state.get_value(atom).is_true()]

    def holds(self, state: Any, condition: Any) -> bool:
        """Whether a condition without parameters is true in a state."""
        return bool(self._evaluator.evaluate(condition, state).is_true())

    def fits(self, name: str, parameter: Any) -> bool:
        """Whether an object is of a parameter's type."""
        return bool(parameter.type.is_compatible(self._problem.object(name).type))

    def unmet(self, state: Any, action: Any, names: tuple[str, ...]) -> list[Any]:
        """The action's conditions, with the named objects for its parameters, that do not hold."""
        values = dict(zip(action.parameters, (self._problem.object(name) for name in names), strict=True))
        conditions = conjuncts([condition.substitute(values) for condition in action.preconditions])
        return [condition for condition in conditions if not self.holds(state, condition)]

    def after(self, state: Any, action: Any, names: tuple[str, ...]) -> Any | None:
        """The state after an action, or None where it is not possible."""
        return self._simulator.apply(state, action, tuple(self._problem.object(name) for name in names))

    @cached_property
    def ground_actions(self) -> list[tuple[Any, tuple[str, ...], Any]] | None:
        """Each action that is not ruled out for good, its objects, and itself with them; None where they are too many.

        What never changes is worked in: of the conditions only those are left that an action can change.
        """
        candidates = sum(
            prod(len(list(self._problem.objects(item.type))) for item in action.parameters)
            for action in self._problem.actions
        )
        if candidates > MAX_GROUND_ACTIONS:
            return None
        helper = planning_library().engines.compilers.grounder.GrounderHelper(self._problem)
        return [
            (action, tuple(value.object().name for value in values), ground)
            for action, values, ground in helper.get_grounded_actions()
            if ground is not None
        ]

    def possible(self, state: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
        """The actions that are possible in a state and change it, with their objects; none where they are too many."""
        for action, names, ground in self.ground_actions or ():
            if all(self.holds(state, condition) for condition in ground.preconditions):
                following = self.after(state, action, names)
                if following is not None and self.true_atoms(following) != self.true_atoms(state):
                    yield action, names


def conjuncts(conditions: list[Any]) -> list[Any]:
    """Conditions that have to hold together, taken apart at every `and`."""
    parts = []
    for condition in conditions:
        parts += conjuncts(condition.args) if condition.is_and() else [condition]
    return parts


def planning_library() -> ModuleType:
    """The package `unified_planning`.

    Raises:
        UserError: it is not installed.
    """
    try:
        import unified_planning
        import unified_planning.engines.compilers
        import unified_planning.io
        import unified_planning.model.walkers
    except ImportError as error:
        raise UserError(
            "the benchmark pddl needs the package unified-planning: pip install 'agentrefine[benchmarks]'."
        ) from error
    module: ModuleType = unified_planning
    return module


def _read(library: ModuleType, domain: str, problem: str, path: Path) -> Any:
    from pyparsing.exceptions import ParseBaseException  # comes with the library

    # In PDDL an action, a predicate and an object may have the same name.
    library.environment.get_environment().error_used_name = False
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return library.io.PDDLReader().parse_problem_string(domain, problem)
    except (ParseBaseException, SyntaxError, library.exceptions.UPException, AssertionError, KeyError) as error:
        # The last two are how the reader meets names that nothing declares.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: unified-planning cannot read it with its domain ({reason}); mend the files.") from error
