"""Conditions and effects of planning domains in English, for goals and for what an action needs and does.

`(forall (?b - ball) (at ?b hall))` is `for every ball, that ball is in hall`, where the domain's words for the fact are
`{b} is in {room}`.
"""

# The planning library has no types that a checker could use.
# ruff: noqa: ANN401

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrefine.benchmarks.pddl.problem import conjuncts
from agentrefine.errors import UserError

SLOT = re.compile(r"\{([^{}]*)\}")
"""A parameter's place in the words of a fact or an action."""

Names = Mapping[Any, str]
"""What the variables of quantifiers are called, such as `that ball`."""


class Sentences:
    """The words of a domain's facts, combined to conditions."""

    def __init__(self, facts: Mapping[str, str], parameters: Mapping[str, Sequence[str]], path: Path) -> None:
        """The words of each predicate, with its parameters' names in braces, and the problem's file, for errors."""
        self._path = path
        self._facts = facts
        self._parameters = parameters

    def condition(self, condition: Any, names: Names | None = None) -> str:
        """A condition in words.

        Raises:
            UserError: it is of a kind that has no words here; names the kind.
        """
        names = names or {}
        if condition.is_fluent_exp():
            return self._fact(condition, names)
        if condition.is_not():
            return self._opposite(condition.arg(0), names)
        if condition.is_forall() or condition.is_exists():
            return self._quantified(condition, names)
        if condition.is_true() or condition.is_false():
            return "nothing more is needed" if condition.is_true() else "this can never be true"
        if condition.is_equals() or condition.is_le() or condition.is_lt():
            relation = "the same as" if condition.is_equals() else "at most" if condition.is_le() else "less than"
            return f" is {relation} ".join(self._value(value, names) for value in condition.args)
        if not (condition.is_and() or condition.is_or() or condition.is_implies() or condition.is_iff()):
            raise self._no_words(condition)
        parts = [self._part(part, names) for part in condition.args]
        if condition.is_implies():
            return f"if {parts[0]}, then {parts[1]}"
        sign = "and" if condition.is_and() else "or" if condition.is_or() else "if and only if"
        return f" {sign} ".join(parts)

    def listed(self, conditions: Sequence[Any], names: Names | None = None) -> str:
        """Conditions as one list."""
        return ", ".join(self.condition(condition, names) for condition in conditions)

    def effect(self, effect: Any) -> str:
        """A conditional or a repeated effect in words, or one on a number.

        Raises:
            UserError: a part of it has no words here.
        """
        names = _called(effect.forall, {}) if effect.is_forall() else {}
        every = f"for {_every(effect.forall, names, 'every')}, " if effect.is_forall() else ""
        if_ = f"if {self.listed(conjuncts([effect.condition]), names)}, then " if effect.is_conditional() else ""
        if effect.value.is_true() or effect.value.is_false():
            fact = self._fact(effect.fluent, names)
            return f"{every}{if_}{fact}" if effect.value.is_true() else f"{every}{if_}no longer {fact}"
        changes = "grows by" if effect.is_increase() else "shrinks by" if effect.is_decrease() else "becomes"
        return f"{every}{if_}{self._value(effect.fluent, names)} {changes} {self._value(effect.value, names)}"

    def _fact(self, fact: Any, names: Names) -> str:
        name = fact.fluent().name
        values = [self._value(argument, names) for argument in fact.args]
        return filled(self._facts[name], dict(zip(self._parameters[name], values, strict=True)))

    def _opposite(self, condition: Any, names: Names) -> str:
        if condition.is_equals():
            return " is not the same as ".join(self._value(value, names) for value in condition.args)
        if condition.is_exists():
            inner = _called(condition.variables(), names)
            return f"for no {_kinds(condition.variables(), inner, names)}, {self._part(condition.arg(0), inner)}"
        return f"it is not true that {self._part(condition, names)}"

    def _quantified(self, condition: Any, names: Names) -> str:
        inner = _called(condition.variables(), names)
        word = "every" if condition.is_forall() else "at least one"
        return f"for {_every(condition.variables(), inner, word)}, {self.condition(condition.arg(0), inner)}"

    def _part(self, condition: Any, names: Names) -> str:
        """A condition inside another one, in parentheses where its end would not be clear."""
        words = self.condition(condition, names)
        inner = condition.arg(0) if condition.is_not() else condition
        is_simple = inner.is_fluent_exp() or inner.is_equals() or inner.is_le() or inner.is_lt()
        return words if is_simple else f"({words})"

    def _value(self, value: Any, names: Names) -> str:
        """An object, a parameter in braces, a variable, or a number."""
        if value.is_parameter_exp():
            return f"{{{value.parameter().name}}}"
        if value.is_variable_exp():
            return names[value.variable()]
        if value.is_fluent_exp():
            return self._fact(value, names)
        signs = {"plus": value.is_plus, "minus": value.is_minus, "times": value.is_times, "divided by": value.is_div}
        for sign, is_kind in signs.items():
            if is_kind():
                return f" {sign} ".join(self._value(part, names) for part in value.args)
        if value.is_object_exp() or value.is_int_constant() or value.is_real_constant():
            return str(value)
        raise self._no_words(value)

    def _no_words(self, condition: Any) -> UserError:
        kind = str(condition.node_type).rsplit(".", maxsplit=1)[-1].lower().replace("_", " ")
        return UserError(
            "not_played",
            f"{self._path}: it or its domain has a condition of a kind that is not played ({kind}); write it without.",
            file=self._path,
            found=kind,
        )


def filled(template: str, values: Mapping[str, str]) -> str:
    """The words of a fact or an action with objects for its parameters."""
    return SLOT.sub(lambda slot: values[slot.group(1)], template)


def _called(variables: Sequence[Any], outer: Names) -> dict[Any, str]:
    """What variables are called: `that ball`, or `ball number 2` where a quantifier around or beside it has a ball."""
    names = dict(outer)
    kinds = [variable.type.name for variable in (*outer, *variables)]
    for position, variable in enumerate(variables, start=len(outer)):
        kind = kinds[position]
        number = kinds[: position + 1].count(kind)
        names[variable] = f"that {kind}" if kinds.count(kind) == 1 else f"{kind} number {number}"
    return names


def _every(variables: Sequence[Any], names: Names, word: str) -> str:
    return " and ".join(f"{word} {_kind(variable, names)}" for variable in variables)


def _kinds(variables: Sequence[Any], names: Names, outer: Names) -> str:
    return " and ".join(_kind(variable, names) for variable in variables if variable not in outer)


def _kind(variable: Any, names: Names) -> str:
    name = names[variable]
    return name.removeprefix("that ") if name.startswith("that ") else f"{variable.type.name} (here {name})"
