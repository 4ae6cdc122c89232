"""What worlds there are: families, themes, and every word that they can say."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import yaml

from agentrefine.conversation import prompt
from agentrefine.worlds.checks import check_family
from agentrefine.worlds.family import (
    ANY_NAME,
    Family,
    Split,
    Theme,
    data_files,
    load_family,
    load_theme,
    parameters,
    read_mapping,
)
from agentrefine.worlds.language import capitalised, first_person

_WORD = re.compile(r"\w+(?:'\w+)?:?")
_HOLE = re.compile(r"\{\w+\}|\$\w+")


def families(split: Split) -> tuple[Family, ...]:
    """The families of a split, by name. Train and held-out families are disjoint."""
    return tuple(f for f in _families().values() if f.split == split)


def themes(split: Split) -> tuple[Theme, ...]:
    """The themes of a split, by name. Train and held-out themes are disjoint."""
    return tuple(t for t in _themes().values() if t.split == split)


def family(name: str) -> Family:
    """The family of a name.

    Raises:
        KeyError: there is none.
    """
    return _families()[name]


def theme(name: str) -> Theme:
    """The theme of a name.

    Raises:
        KeyError: there is none.
    """
    return _themes()[name]


@cache
def texts() -> dict[str, Any]:
    """What the engine itself says, whatever the family."""
    loaded: dict[str, Any] = yaml.safe_load(_data("texts.yaml"))
    return loaded


@cache
def wording_templates() -> dict[str, dict[str, str]]:
    """For each alternative wording, the template that stands for each canonical one."""
    loaded: dict[str, dict[str, str]] = yaml.safe_load(_data("wordings.yaml"))
    return loaded


@cache
def names() -> frozenset[str]:
    """Every name that an object of a world can have."""
    return frozenset(noun for setting in _themes().values() for pool in setting.nouns.values() for noun in pool)


@cache
def name_regex() -> str:
    """The regular expression of what may stand for a name in an action: a known name first, else a few words."""
    longest_first = sorted(names(), key=lambda name: (-len(name), name))
    return "|".join([*longest_first, ANY_NAME])


@cache
def said() -> frozenset[str]:
    """The texts of which worlds, instructions and paraphrased actions are made, with holes where names stand.

    A clause is there in each form in which it occurs: within a sentence, at its beginning, and in the first person.
    """
    found = {"Goal: Thought: Action:", prompt("agent_instructions.md"), prompt("agent_acknowledgement.md")}
    found.update(text for value in texts().values() for text in _lines(value))
    for definition in _families().values():
        found.update(_family_texts(definition))
    found |= {first_person(text) for text in found}
    found |= {capitalised(text) for text in found}
    return frozenset(found | set(all_templates()))


@cache
def vocabulary() -> frozenset[str]:
    """Every name, word and placeholder that worlds, instructions and paraphrased actions can produce."""
    placeholders = {"{" + name + "}" for template in all_templates() for name in parameters(template)}
    return names() | placeholders | {word for text in said() for word in words_in(text)}


def words_in(text: str) -> list[str]:
    """The words of a template's text, without its holes and punctuation."""
    return _WORD.findall(_HOLE.sub(" ", text))


def all_templates() -> Iterator[str]:
    """The templates of all actions, in canonical wording and paraphrased."""
    yield from (template for rules in _families().values() for template in rules.actions)
    yield from (template for templates in wording_templates().values() for template in templates.values())


def _lines(value: str | dict[str, str]) -> list[str]:
    return [value] if isinstance(value, str) else [*value, *value.values()]


def _family_texts(rules: Family) -> Iterator[str]:
    for template, action in rules.actions.items():
        yield from (*parameters(template), action.does, action.says, action.success or "")
        yield from (text for p in action.requires for text in (p.message, p.belief))
    for predicate in rules.predicates.values():
        yield from (predicate.says, predicate.denies)
    for said_ in (*rules.opening, *rules.observation):
        yield from (said_.text, said_.none, said_.show)
    yield from (condition.text for goal in rules.goals for condition in goal.conditions)


@cache
def _families() -> dict[str, Family]:
    modules = {name: read_mapping(text, f"module `{name}`") for name, text in data_files("modules")}
    found = {name: load_family(name, text, modules) for name, text in data_files("families")}
    for rules in found.values():
        check_family(rules)
    return found


@cache
def _themes() -> dict[str, Theme]:
    return {name: load_theme(name, text) for name, text in data_files("themes")}


def _data(name: str) -> str:
    return resources.files("agentrefine.worlds").joinpath(name).read_text(encoding="utf-8")
