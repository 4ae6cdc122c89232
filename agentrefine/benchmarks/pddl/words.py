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
from agentrefine.files import first_problem, problem_code, problem_key, read_yaml
from agentrefine.worlds.language import sentence


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
    """

    def __init__(self, problem: PddlProblem, given: DomainWords, source: Path | None = None) -> None:
        """Check the words against the domain.

        Raises:
            UserError: a name that the domain does not have, a parameter that is missing or not there, or two actions
                that are written alike; names `source`.
        """
        self._facts = {name: given.facts.get(name, _plain(name, names)) for name, names in problem.predicates}
        self._parameters = dict(problem.predicates)
        self._sentences = Sentences(self._facts, self._parameters, problem.path)
        self.templates = {
            name: given.actions[name].say if name in given.actions else _plain(name, _names(action))
            for name, action in problem.actions.items()
        }
        self._check(problem, given, source)
        self._patterns = {
            name: (_pattern(template), SLOT.findall(template), _names(problem.actions[name]))
            for name, template in self.templates.items()
        }
        does = {name: words.does for name, words in given.actions.items()}
        self.described = {
            template: does.get(name) or self._effects(problem.actions[name])
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

    def sentences(self, conditions: Sequence[Any]) -> str:
        """Conditions as sentences."""
        return " ".join(sentence(self._sentences.condition(condition)) for condition in conditions)

    def listed(self, conditions: Sequence[Any]) -> str:
        """Conditions as one list."""
        return self._sentences.listed(conditions)

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

    def _check(self, problem: PddlProblem, given: DomainWords, source: Path | None) -> None:
        unknown = [f"actions.{name}" for name in given.actions if name not in problem.actions]
        unknown += [f"facts.{name}" for name in given.facts if name not in self._parameters]
        if unknown:
            raise UserError(
                "unknown_name",
                f"{source}, {unknown[0]}: the domain has none of that name; take it out.",
                file=source,
                key=unknown[0],
            )
        for name, template in self.templates.items():
            wanted = _names(problem.actions[name])
            if sorted(SLOT.findall(template)) != sorted(wanted):
                raise UserError(
                    "bad_value",
                    f"{source}, actions.{name}.say: {template!r} has to name each parameter once: "
                    f"{' '.join(f'{{{parameter}}}' for parameter in wanted) or 'none'}.",
                    file=source,
                    key=f"actions.{name}.say",
                    parameters=wanted,
                )
        for name, template in self._facts.items():
            if not set(SLOT.findall(template)) <= set(self._parameters[name]):
                raise UserError(
                    "bad_value",
                    f"{source}, facts.{name}: {template!r} names a parameter that the predicate does not have.",
                    file=source,
                    key=f"facts.{name}",
                    value=template,
                )
        shapes = [SLOT.sub("{}", template).lower() for template in self.templates.values()]
        for name, shape in zip(self.templates, shapes, strict=True):
            if shapes.count(shape) > 1:
                raise UserError(
                    "duplicate_words",
                    f"{source}, actions.{name}.say: another action is written in the same words.",
                    file=source,
                    key=f"actions.{name}.say",
                )


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
        code = problem_code(error)
        raise UserError(code, f"{path}: {first_problem(error)}", file=path, key=problem_key(error)) from error


def _plain(name: str, parameters: Sequence[str]) -> str:
    return " ".join([name, *(f"{{{parameter}}}" for parameter in parameters)])


def _names(action: Any) -> list[str]:
    return [parameter.name for parameter in action.parameters]


def _pattern(template: str) -> re.Pattern[str]:
    """A regular expression for a template: its words, and one word for every parameter."""
    literals = re.split(r"\{[^{}]*\}", template)
    return re.compile(r"(\S+)".join(map(re.escape, literals)), re.IGNORECASE)
