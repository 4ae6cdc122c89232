"""Planning domains in words: actions as an agent writes them, facts as it reads them.

Without a file the words are those of the domain itself: an action is its name and then its objects, a fact its
predicate and then its objects. A YAML file gives a domain better ones:

    observe: changes                  # show what an action changed, and add the action `look around`; else `state`
    actions:
      pick: {say: take {ball} with {hand}, does: take a ball that lies where you are}
    facts:
      at: "{ball} is in {room}"       # the names in braces are the parameters' in the domain

What the file leaves out keeps the domain's words; an action without `does` is described by its conditions and effects.
Whole conditions are sentences: `(forall (?b - ball) (at ?b hall))` is `for every ball, that ball is in hall`, where the
words for the fact are `{b} is in {room}`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from agentrefine.benchmarks.pddl.problem import PddlProblem, conjuncts
from agentrefine.errors import UserError, file_error
from agentrefine.files import invalid_value, read_yaml
from agentrefine.worlds.language import sentence

SLOT = re.compile(r"\{([^{}]*)\}")
"""A parameter's place in the words of a fact or an action."""

Names = Mapping[Any, str]
"""What the variables of quantifiers are called, such as `that ball`."""


class ActionWords(BaseModel):
    """The words of an action: what an agent writes, and how its instructions describe it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    say: str
    does: str = ""


class DomainWords(BaseModel):
    """The words of a domain, by the names of its actions and predicates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    observe: Literal["state", "changes"] = "state"
    actions: dict[str, ActionWords] = {}
    facts: dict[str, str] = {}


class Phrases:
    """A problem's domain in words.

    Attributes:
        templates: by action, such as `stack {block} on {other}`.
        described: what each action does, by its template.

    Raises:
        UserError: a name that the domain does not have, a parameter that is missing or not there, or two actions that
            are written alike; names the file of the words.
    """

    def __init__(self, problem: PddlProblem, given: DomainWords, source: Path | None = None) -> None:
        self._path = problem.path
        self._facts = {name: given.facts.get(name, _plain(name, names)) for name, names in problem.predicates.items()}
        self._parameters = problem.predicates
        self.templates = {name: _plain(name, _names(action)) for name, action in problem.actions.items()}
        self.templates |= {name: words.say for name, words in given.actions.items() if name in problem.actions}
        self._check(problem, given, source)
        self.described, self._patterns = {}, {}
        for name, template in self.templates.items():
            action = problem.actions[name]
            self._patterns[name] = _pattern(template), SLOT.findall(template), _names(action)
            does = given.actions[name].does if name in given.actions else ""
            self.described[template] = does or self._effects(action)

    def action(self, name: str, objects: Sequence[str]) -> str:
        """An action as an agent writes it."""
        return with_objects(self.templates[name], dict(zip(self._patterns[name][2], objects, strict=True)))

    def read(self, words: str) -> tuple[str, tuple[str, ...]] | None:
        """The action's name and its objects in the order of the domain's parameters; None for any other text."""
        for name, (pattern, slots, parameters) in self._patterns.items():
            match = pattern.fullmatch(words)
            if match:
                values = dict(zip(slots, match.groups(), strict=True))
                return name, tuple(values[parameter] for parameter in parameters)
        return None

    def sentences(self, conditions: Sequence[Any]) -> str:
        """Conditions as sentences."""
        return " ".join(sentence(self.condition(condition)) for condition in conditions)

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
        every = f"for {_kinds(effect.forall, names, 'every')}, " if effect.is_forall() else ""
        if_ = f"if {self.listed(conjuncts([effect.condition]), names)}, then " if effect.is_conditional() else ""
        if effect.value.is_true() or effect.value.is_false():
            fact = self._fact(effect.fluent, names)
            return f"{every}{if_}{fact}" if effect.value.is_true() else f"{every}{if_}no longer {fact}"
        changes = "grows by" if effect.is_increase() else "shrinks by" if effect.is_decrease() else "becomes"
        return f"{every}{if_}{self._value(effect.fluent, names)} {changes} {self._value(effect.value, names)}"

    def _fact(self, fact: Any, names: Names) -> str:
        name = fact.fluent().name
        values = [self._value(argument, names) for argument in fact.args]
        return with_objects(self._facts[name], dict(zip(self._parameters[name], values, strict=True)))

    def _opposite(self, condition: Any, names: Names) -> str:
        if condition.is_equals():
            return " is not the same as ".join(self._value(value, names) for value in condition.args)
        if condition.is_exists():
            inner = _called(condition.variables(), names)
            kinds = _kinds((variable for variable in condition.variables() if variable not in names), inner)
            return f"for no {kinds}, {self._part(condition.arg(0), inner)}"
        return f"it is not true that {self._part(condition, names)}"

    def _quantified(self, condition: Any, names: Names) -> str:
        inner = _called(condition.variables(), names)
        word = "every" if condition.is_forall() else "at least one"
        return f"for {_kinds(condition.variables(), inner, word)}, {self.condition(condition.arg(0), inner)}"

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
        message = f"it or its domain has a condition of a kind that is not played ({kind}); write it without."
        return file_error("not_played", self._path, message, found=kind)

    def _effects(self, action: Any) -> str:
        needs = self.listed(conjuncts(action.preconditions))
        always = [effect for effect in action.effects if not effect.is_conditional() and not effect.is_forall()]
        facts = [effect for effect in always if effect.value.is_true() or effect.value.is_false()]
        added = [effect.fluent for effect in facts if effect.value.is_true()]
        removed = [effect.fluent for effect in facts if effect.value.is_false() and effect.fluent not in added]
        parts = [f"possible if {needs}" if needs else "always possible"]
        parts += [f"then {self.listed(added)}"] if added else []
        parts += [f"no longer {self.listed(removed)}"] if removed else []
        parts += [self.effect(effect) for effect in action.effects if effect not in facts]
        return sentence("; ".join(parts))

    def _check(self, problem: PddlProblem, given: DomainWords, source: Path | None) -> None:
        unknown = [f"actions.{name}" for name in given.actions if name not in problem.actions]
        unknown += [f"facts.{name}" for name in given.facts if name not in self._parameters]
        if unknown:
            message = "the domain has none of that name; take it out."
            raise file_error("unknown_name", source, message, at=unknown[0], key=unknown[0])
        for name, template in self.templates.items():
            wanted, key = _names(problem.actions[name]), f"actions.{name}.say"
            if sorted(SLOT.findall(template)) != sorted(wanted):
                slots = " ".join(f"{{{parameter}}}" for parameter in wanted) or "none"
                message = f"{template!r} has to name each parameter once: {slots}."
                raise file_error("bad_value", source, message, at=key, key=key, parameters=wanted)
        for name, template in self._facts.items():
            if not set(SLOT.findall(template)) <= set(self._parameters[name]):
                message = f"{template!r} names a parameter that the predicate does not have."
                raise file_error("bad_value", source, message, at=f"facts.{name}", key=f"facts.{name}", value=template)
        shapes = [SLOT.sub("{}", template).lower() for template in self.templates.values()]
        for name, shape in zip(self.templates, shapes, strict=True):
            if shapes.count(shape) > 1:
                key = f"actions.{name}.say"
                message = "another action is written in the same words."
                raise file_error("duplicate_words", source, message, at=key, key=key)


def read_words(path: Path) -> DomainWords:
    """The words in a YAML file.

    Raises:
        UserError: not YAML, or an unknown key; names the file and the key.
    """
    # This loader makes strings of all scalars: `on` is a name here, not true.
    given = read_yaml(path, "write it beside the domain", yaml.BaseLoader)
    try:
        return DomainWords.model_validate(given or {})
    except ValidationError as error:
        raise invalid_value(error, path, file=path) from error


def _plain(name: str, parameters: Sequence[str]) -> str:
    return " ".join([name, *(f"{{{parameter}}}" for parameter in parameters)])


def _names(action: Any) -> list[str]:
    return [parameter.name for parameter in action.parameters]


def _pattern(template: str) -> re.Pattern[str]:
    """A regular expression for a template: its words, and one word for every parameter."""
    literals = re.split(r"\{[^{}]*\}", template)
    return re.compile(r"(\S+)".join(map(re.escape, literals)), re.IGNORECASE)


def with_objects(template: str, values: Mapping[str, str]) -> str:
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


def _kinds(variables: Iterable[Any], names: Names, word: str = "") -> str:
    """The kinds of variables behind a word such as `every`, with what one is called where that is not `that <kind>`."""
    kinds = []
    for variable in variables:
        name = names[variable]
        kind = name.removeprefix("that ") if name.startswith("that ") else f"{variable.type.name} (here {name})"
        kinds.append(f"{word} {kind}".lstrip())
    return " and ".join(kinds)
