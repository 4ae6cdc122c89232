"""What worlds there are: families, themes, and every word that they can say."""

from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import yaml

from agentrefine.conversation import prompt
from agentrefine.worlds.checks import check_family
from agentrefine.worlds.family import (
    Family,
    Split,
    Theme,
    data_files,
    load_family,
    load_theme,
    parameters,
    read_mapping,
)


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
def vocabulary() -> frozenset[str]:
    """Every word (between spaces, punctuation included) that a world, a wording or an instruction can produce.

    The first-person forms in which an expert's reasons are told are included, and the markers of the chat format.
    """
    said = ["Goal: Thought: Action: i am my", prompt("agent_instructions.md"), prompt("agent_acknowledgement.md")]
    said.extend(text for name in texts() for text in _lines(texts()[name]))
    for definition in _families().values():
        said.extend(_family_texts(definition))
    for setting in _themes().values():
        said.extend(noun for pool in setting.nouns.values() for noun in pool)
    words = {word for text in said for word in text.split() if "{" not in word and word != "$actions"}
    return frozenset(words | {word for template in _all_templates() for word in template.split()})


def _all_templates() -> Iterator[str]:
    yield from (template for rules in _families().values() for template in rules.actions)
    yield from (template for templates in wording_templates().values() for template in templates.values())


def _lines(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _family_texts(rules: Family) -> Iterator[str]:
    for template, action in rules.actions.items():
        yield from (*parameters(template), action.does, action.success or "")
        yield from (text for p in action.requires for text in (p.message, p.belief))
    for predicate in rules.predicates.values():
        yield from (predicate.says, predicate.denies)
    for sentence in (*rules.opening, *rules.observation):
        yield from (sentence.text, sentence.none, sentence.show)
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
