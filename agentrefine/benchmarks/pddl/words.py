"""Planning domains in words: actions as an agent writes them, facts as it reads them.

Without a file the words are those of the domain itself: an action is its name and then its objects, a fact its
predicate and then its objects. A YAML file gives a domain better ones:

    observe: changes                  # show what an action changed, and add the action `look around`; else `state`
    actions:
      pick: {say: take {ball} with {hand}, does: take a ball that lies where you are}
    facts:
      at: "{ball} is in {room}"       # the names in braces are the parameters' in the domain

What the file leaves out keeps the domain's words; an action without `does` is described by its conditions and effects.
"""

# The planning library has no types that a checker could use.
# ruff: noqa: ANN401

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from agentrefine.benchmarks.pddl.problem import PddlProblem, conjuncts
from agentrefine.benchmarks.pddl.sentences import SLOT, Sentences, filled
from agentrefine.errors import UserError
from agentrefine.files import first_problem, read_yaml
from agentrefine.worlds.family import sentence


class ActionWording(BaseModel):
    """The words of an action: what an agent writes, and what it is told that this does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    say: str
    does: str = ""


class DomainWording(BaseModel):
    """The words of a domain, by the names of its actions and predicates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    observe: Literal["state", "changes"] = "state"
    actions: dict[str, ActionWording] = {}
    facts: dict[str, str] = {}


class Phrases:
    """A problem's domain in the words of a `DomainWording`.

    Attributes:
        templates: by action, such as `stack {block} on {other}`.
    """

    def __init__(self, problem: PddlProblem, wording: DomainWording, source: Path | None = None) -> None:
        """Check the words against the domain.

        Raises:
            UserError: a name that the domain does not have, a parameter that is missing or not there, or two actions
                that are written alike; names `source`.
        """
        self._facts = {
            name: wording.facts.get(name, _plain(name, parameters)) for name, parameters in problem.predicates
        }
        self._parameters = dict(problem.predicates)
        self._sentences = Sentences(self._facts, self._parameters, problem.path)
        self.templates = {
            name: wording.actions[name].say if name in wording.actions else _plain(name, _names(action))
            for name, action in problem.actions.items()
        }
        self._check(problem, wording, source)
        self._patterns = {
            name: (
                re.compile(_pattern(template), re.IGNORECASE),
                SLOT.findall(template),
                _names(problem.actions[name]),
            )
            for name, template in self.templates.items()
        }
        self.described = {
            template: wording.actions[name].does
            if name in wording.actions and wording.actions[name].does
            else self._effects(problem.actions[name])
            for name, template in self.templates.items()
        }

    def action(self, name: str, objects: Sequence[str]) -> str:
        """An action as an agent writes it."""
        return filled(self.templates[name], dict(zip(self._patterns[name][2], objects, strict=True)))

    def read(self, words: str) -> tuple[str, tuple[str, ...]] | None:
        """The action's name and its objects in the order of the domain's parameters; None for any other text."""
        for name, (pattern, slots, parameters) in self._patterns.items():
            match = pattern.fullmatch(words)
            if match:
                values = dict(zip(slots, match.groups(), strict=True))
                return name, tuple(values[parameter] for parameter in parameters)
        return None

    def condition(self, condition: Any) -> str:
        """A condition in words.

        Raises:
            UserError: it is of a kind that has no words here.
        """
        return self._sentences.condition(condition)

    def sentences(self, conditions: Sequence[Any]) -> str:
        """Conditions as sentences."""
        told = (self.condition(condition) for condition in conditions)
        return " ".join(map(sentence, told))

    def listed(self, conditions: Sequence[Any]) -> str:
        """Conditions as one list."""
        return ", ".join(self.condition(condition) for condition in conditions)

    def _effects(self, action: Any) -> str:
        needs = self.listed(conjuncts(action.preconditions))
        simple = [effect for effect in action.effects if not effect.is_conditional() and not effect.is_forall()]
        added = [effect.fluent for effect in simple if effect.value.is_true()]
        removed = [effect.fluent for effect in simple if effect.value.is_false() and effect.fluent not in added]
        simple = [effect for effect in simple if effect.value.is_true() or effect.value.is_false()]
        other = [self._sentences.effect(effect) for effect in action.effects if effect not in simple]
        parts = [
            f"possible if {needs}" if needs else "always possible",
            f"then {self.listed(added)}" if added else "",
            f"no longer {self.listed(removed)}" if removed else "",
            *other,
        ]
        return sentence("; ".join(part for part in parts if part))

    def _check(self, problem: PddlProblem, wording: DomainWording, source: Path | None) -> None:
        for kind, given, known in (
            ("actions", wording.actions, set(problem.actions)),
            ("facts", wording.facts, set(self._parameters)),
        ):
            for name in given:
                if name not in known:
                    raise UserError(f"{source}, {kind}.{name}: the domain has none of that name; take it out.")
        for name, template in self.templates.items():
            wanted = _names(problem.actions[name])
            if sorted(SLOT.findall(template)) != sorted(wanted):
                raise UserError(
                    f"{source}, actions.{name}.say: {template!r} has to name each parameter once: "
                    f"{' '.join(f'{{{parameter}}}' for parameter in wanted) or 'none'}."
                )
        for name, template in self._facts.items():
            if not set(SLOT.findall(template)) <= set(self._parameters[name]):
                raise UserError(
                    f"{source}, facts.{name}: {template!r} names a parameter that the predicate does not have."
                )
        shapes = [SLOT.sub("{}", template).lower() for template in self.templates.values()]
        for name, shape in zip(self.templates, shapes, strict=True):
            if shapes.count(shape) > 1:
                raise UserError(f"{source}, actions.{name}.say: another action is written in the same words.")


def read_wording(path: Path) -> DomainWording:
    """The words in a YAML file.

    Raises:
        UserError: not YAML, or an unknown key; names the file and the key.
    """
    # This loader makes strings of all scalars: `on` is a name here, not true.
    given = read_yaml(path, "write it beside the domain", yaml.BaseLoader)
    try:
        return DomainWording.model_validate(given or {})
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}") from error


def _plain(name: str, parameters: Sequence[str]) -> str:
    return " ".join([name, *(f"{{{parameter}}}" for parameter in parameters)])


def _names(action: Any) -> list[str]:
    return [parameter.name for parameter in action.parameters]


def _pattern(template: str) -> str:
    """A regular expression for a template: its words, and one word for every parameter."""
    literal = [re.escape(part) for part in re.split(r"\{[^{}]*\}", template)]
    return r"(\S+)".join(literal)
