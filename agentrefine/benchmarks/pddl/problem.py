"""A planning problem that is played by `unified-planning`."""

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from agentrefine.benchmarks.common import imported
from agentrefine.benchmarks.pddl.syntax import fixed
from agentrefine.errors import file_error

MAX_GROUND_ACTIONS = 100_000
"""Actions with objects put in for parameters, possible or not; more are neither listed nor planned with."""

Values = Mapping[Any, str]
"""Names of objects by an action's parameters."""


class GroundedAction(NamedTuple):
    """An action with objects for its parameters, and those of its conditions that an action can change."""

    action: Any
    names: tuple[str, ...]
    values: Values
    conditions: list[Any]


class PddlProblem:
    """A domain with one problem. States are those of `unified-planning`, conditions its expressions.

    Attributes:
        path: the problem's file.
        domain: what the domain calls itself.
        actions: by name.
        predicates: the names of their parameters, by name.
        objects: names, in the order of declaration.
        initial: the first state.
        goals: conditions that have to hold together.

    Raises:
        UserError: `unified-planning` is not installed; a file is missing or not PDDL that it can play.
    """

    def __init__(self, domain: Path, problem: Path) -> None:
        library = planning_library()
        self.path = problem
        self.domain, domain_text, problem_text = fixed(domain, problem)
        self._problem, self._simulator = _read(library, domain_text, problem_text, problem)
        self.actions: dict[str, Any] = {action.name: action for action in self._problem.actions}
        self.predicates = {fluent.name: [item.name for item in fluent.signature] for fluent in self._problem.fluents}
        self.objects: list[str] = [item.name for item in self._problem.all_objects]
        self._evaluator = library.model.walkers.StateEvaluator(self._problem)
        self.initial = self._simulator.get_initial_state()
        self.goals = conjuncts(self._problem.goals)
        self._put: dict[Any, Any] = {}
        self._parameters: dict[Any, tuple[Any, ...]] = {}
        self._never_changing: dict[Any, bool | None] = {}
        self._static = self._problem.get_static_fluents()
        if not self.goals:
            raise file_error("empty_goal", problem, "the goal is empty; name what has to be true.")

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

    def put(self, expression: Any, values: Values) -> Any:
        """An expression of an action with objects for the parameters in it."""
        found = [(parameter, values[parameter]) for parameter in self._in(expression)]
        key = (expression, tuple(name for _, name in found))
        if key not in self._put:
            self._put[key] = expression.substitute({item: self._problem.object(name) for item, name in found})
        return self._put[key]

    def unmet(self, state: Any, action: Any, names: tuple[str, ...]) -> list[Any]:
        """The action's conditions, with the named objects for its parameters, that do not hold."""
        values = dict(zip(action.parameters, names, strict=True))
        conditions = (self.put(condition, values) for condition in conjuncts(action.preconditions))
        return [condition for condition in conditions if not self.holds(state, condition)]

    def after(self, state: Any, action: Any, names: tuple[str, ...]) -> Any | None:
        """The state after an action, or None where it is not possible."""
        return self._simulator.apply(state, action, tuple(self._problem.object(name) for name in names))

    @cached_property
    def ground_actions(self) -> list[GroundedAction] | None:
        """Each action with each choice of objects, where what never changes does not rule it out; None if too many."""
        choices = {action: self._choices(action) for action in self._problem.actions}
        if sum(prod(map(len, lists)) for lists in choices.values()) > MAX_GROUND_ACTIONS:
            return None
        found = []
        for action, lists in choices.items():
            conditions = conjuncts(action.preconditions)
            for names in product(*lists):
                values = dict(zip(action.parameters, names, strict=True))
                put = [self.put(condition, values) for condition in conditions]
                if all(self._fixed(condition) is not False for condition in put):
                    changing = [condition for condition in put if self._fixed(condition) is None]
                    found.append(GroundedAction(action, names, values, changing))
        return found

    def possible(self, state: Any) -> Iterator[GroundedAction]:
        """The actions that are possible in a state and change it; none where they are too many."""
        held = set(self.true_atoms(state))
        for ground in self.ground_actions or ():
            if all(atom in held if atom.is_fluent_exp() else self.holds(state, atom) for atom in ground.conditions):
                following = self.after(state, ground.action, ground.names)
                if following is not None and following != state:
                    yield ground

    @cached_property
    def _atoms(self) -> list[Any]:
        """The facts that are true at first or that an action can make true; all of them where actions are too many."""
        fluents = [fluent for fluent in self._problem.fluents if fluent.type.is_bool_type()]
        expressions = planning_library().model.fluent.get_all_fluent_exp
        every = [atom for fluent in fluents for atom in expressions(self._problem, fluent)]
        if self.ground_actions is None:
            return every
        reached = {atom for atom in every if self.initial.get_value(atom).is_true()}
        whole = set()
        for ground in self.ground_actions:
            for effect in ground.action.effects:
                if effect.is_forall():
                    whole.add(effect.fluent.fluent())
                else:
                    reached.add(self.put(effect.fluent, ground.values))
        return [atom for atom in every if atom in reached or atom.fluent() in whole]

    def _choices(self, action: Any) -> list[list[str]]:
        """For each parameter the objects that its type and the unchanging conditions on it alone allow."""
        conditions = conjuncts(action.preconditions)
        lists = []
        for parameter in action.parameters:
            names = [item.name for item in self._problem.objects(parameter.type)]
            for condition in conditions:
                if self._in(condition) == (parameter,):
                    names = [name for name in names if self._fixed(self.put(condition, {parameter: name})) is not False]
            lists.append(names)
        return lists

    def _fixed(self, condition: Any) -> bool | None:
        """Whether a condition always or never holds; None where that can change."""
        if condition not in self._never_changing:
            atoms = self._problem.environment.free_vars_extractor.get(condition)
            static = all(atom.fluent() in self._static for atom in atoms)
            self._never_changing[condition] = self.holds(self.initial, condition) if static else None
        return self._never_changing[condition]

    def _in(self, expression: Any) -> tuple[Any, ...]:
        """The parameters in an expression, each once, in the order of their first appearance."""
        if expression not in self._parameters:
            own = [expression.parameter()] if expression.is_parameter_exp() else []
            inner = [parameter for part in expression.args for parameter in self._in(part)]
            self._parameters[expression] = tuple(dict.fromkeys([*own, *inner]))
        return self._parameters[expression]


def conjuncts(conditions: list[Any]) -> list[Any]:
    """Conditions that have to hold together, taken apart at every `and`."""
    parts = []
    for condition in conditions:
        parts += conjuncts(condition.args) if condition.is_and() else [condition]
    return parts


def planning_library() -> ModuleType:
    """The package `unified_planning`.

    Raises:
        NotInstalledError: it is not installed.
    """
    modules = ("unified_planning", *(f"unified_planning.{part}" for part in ("engines", "io", "model.walkers")))
    return imported("pddl", "unified-planning", *modules)


def _read(library: ModuleType, domain: str, problem: str, path: Path) -> tuple[Any, Any]:
    """The problem and its simulator."""
    from pyparsing.exceptions import ParseBaseException  # comes with the library

    # The library stumbles in these ways over what is malformed or not declared.
    malformed = (AssertionError, AttributeError, LookupError, TypeError)
    # In PDDL an action, a predicate and an object may have the same name.
    library.environment.get_environment().error_used_name = False
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            read = library.io.PDDLReader().parse_problem_string(domain, problem)
            return read, library.engines.UPSequentialSimulator(read)
    except (ParseBaseException, SyntaxError, library.exceptions.UPException, *malformed) as error:
        reason = " ".join(str(error).split())[:200]
        message = f"unified-planning cannot play it with its domain ({reason}); fix the files."
        raise file_error("problem_refused", path, message, reason=reason) from error
