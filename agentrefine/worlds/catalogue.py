"""What worlds there are: the families, each checked when it is loaded, the themes, the paraphrases, and every word."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from agentrefine.errors import UserError
from agentrefine.files import packaged_text
from agentrefine.game.conversation import prompt
from agentrefine.worlds.facts import Pattern, type_of
from agentrefine.worlds.family import Action, Family, Split, Theme, data_files, load_family, load_theme, read_mapping
from agentrefine.worlds.language import ANY_NAME, HOLE, Paraphrase, capitalised, first_person, parameters

_WORD = re.compile(r"\w+(?:'\w+)?:?")


def families(split: Split) -> tuple[Family, ...]:
    """The families of a split, by name. Train and held-out families are disjoint."""
    return tuple(f for f in all_families().values() if f.split == split)


def themes(split: Split) -> tuple[Theme, ...]:
    """The themes of a split, by name. Train and held-out themes are disjoint."""
    return tuple(t for t in all_themes().values() if t.split == split)


@cache
def all_families() -> dict[str, Family]:
    """Every family by its name."""
    modules = {name: read_mapping(text, f"module `{name}`") for name, text in data_files("modules").items()}
    found = {name: load_family(name, text, modules) for name, text in data_files("families").items()}
    for rules in found.values():
        check_family(rules)
    return found


@cache
def all_themes() -> dict[str, Theme]:
    """Every theme by its name."""
    return {name: load_theme(name, text) for name, text in data_files("themes").items()}


@cache
def texts() -> dict[str, Any]:
    """What the engine itself says, whatever the family."""
    return read_mapping(packaged_text("agentrefine.worlds", "texts.yaml"), "texts.yaml")


@cache
def paraphrase_templates() -> dict[str, dict[str, str]]:
    """For each paraphrase, the template that stands for each canonical one."""
    return read_mapping(packaged_text("agentrefine.worlds", "paraphrases.yaml"), "paraphrases.yaml")


@cache
def names() -> frozenset[str]:
    """Every name that an object of a world can have."""
    return frozenset(noun for setting in all_themes().values() for pool in setting.nouns.values() for noun in pool)


@cache
def name_regex() -> str:
    """The regular expression of what may stand for a name in an action: a known name first, else a few words."""
    longest_first = sorted(names(), key=lambda name: (-len(name), name))
    return "|".join([*longest_first, ANY_NAME])


@cache
def all_texts() -> frozenset[str]:
    """The texts of which worlds, instructions and paraphrased actions are made, with holes where names stand.

    A clause is there in each form in which it occurs: within a sentence, at its beginning, and in the first person.
    """
    found = {"Goal: Thought: Action:", prompt("instructions.md"), prompt("acknowledgement.md")}
    for value in texts().values():
        found.update([value] if isinstance(value, str) else [*value, *value.values()])
    for definition in all_families().values():
        found.update(_family_texts(definition))
    found |= {first_person(text) for text in found}
    found |= {capitalised(text) for text in found}
    return frozenset(found.union(all_templates()))


@cache
def vocabulary() -> frozenset[str]:
    """Every name, word and placeholder that worlds, instructions and paraphrased actions can produce."""
    placeholders = {"{" + name + "}" for template in all_templates() for name in parameters(template)}
    return names() | placeholders | {word for text in all_texts() for word in words_in(text)}


def words_in(text: str) -> list[str]:
    """The words of a template's text, without its holes and punctuation."""
    return _WORD.findall(HOLE.sub(" ", text))


def all_templates() -> Iterator[str]:
    """The templates of all actions, canonical and paraphrased."""
    yield from (template for rules in all_families().values() for template in rules.actions)
    yield from (template for templates in paraphrase_templates().values() for template in templates.values())


def _family_texts(rules: Family) -> Iterator[str]:
    for template, action in rules.actions.items():
        yield from (*parameters(template), action.does, action.says, action.success or "")
        yield from (text for p in action.requires for text in (p.message, p.belief))
    for predicate in rules.predicates.values():
        yield from (predicate.says, predicate.denies)
    for sentence in (*rules.opening, *rules.observation):
        yield from (sentence.text, sentence.none, sentence.show)
    yield from (condition.text for goal in rules.goals for condition in goal.conditions)


PARAPHRASES: tuple[str, ...] = tuple(paraphrase_templates())
"""The names of the paraphrases of the worlds' actions."""


@cache
def paraphrase(name: str) -> Paraphrase:
    """The paraphrase of a name, for the actions of all families. Raises KeyError if there is none."""
    return Paraphrase(name, paraphrase_templates()[name], name_regex(), repeated=False)


def check_family(rules: Family) -> None:
    """Refuse a family with which a game could fail.

    Raises:
        UserError: one sentence with the first finding.
    """
    finding = next(_findings(rules), None)
    if finding is not None:
        message = f"family `{rules.name}`: {finding.sentence}; correct the family's file or the module that it uses."
        raise UserError("bad_family", message, family=rules.name, fault=finding.fault, name=finding.name)


class _Finding(NamedTuple):
    """What is wrong with a family, in a word, what it is wrong with, and the sentence."""

    fault: str
    name: str
    sentence: str


def _findings(rules: Family) -> Iterator[_Finding]:
    for name, predicate in rules.predicates.items():
        yield from _bad_patterns(rules, f"predicate `{name}`", [p for patterns in predicate.seen for p in patterns])
        yield from _unbound(f"predicate `{name}`", [predicate.says, predicate.denies], predicate.of)
    for template, action in rules.actions.items():
        yield from _action_findings(rules, template, action)
    for sentence in (*rules.opening, *rules.observation):
        where, outside = f"sentence `{sentence.text}`", _variables(sentence.for_)
        yield from _bad_patterns(rules, where, [*sentence.for_, *sentence.list])
        yield from _unbound(where, [sentence.text], {*outside, "list"} if sentence.list else outside)
        yield from _unbound(where, [sentence.none], outside)
        yield from _unbound(where, [sentence.show], outside | _variables(sentence.list))
    for rule in rules.start:
        yield from _bad_patterns(rules, "start", [*rule.facts, *(p for patterns in rule.any for p in patterns)])
        yield from _unknown_types(rules, "start", [rule.each] if rule.each else [])
    for goal in rules.goals:
        patterns = [*goal.given, *(condition.fact for condition in goal.conditions)]
        yield from _bad_patterns(rules, "goals", patterns)
        yield from _unbound("goals", [condition.text for condition in goal.conditions], _variables(patterns))
    yield from _bad_patterns(rules, "explore", rules.explore)
    for pattern in rules.explore:
        if len(pattern.variables) != 1:
            problem = f"explore names `{pattern.predicate}`, which must have one argument"
            yield _Finding("arguments", pattern.predicate, problem)


def _action_findings(rules: Family, template: str, action: Action) -> Iterator[_Finding]:
    where, bound = f"action `{template}`", set(parameters(template))
    yield from _bad_patterns(rules, where, [*(condition.fact for condition in action.requires), *action.effects])
    yield from _unknown_types(rules, where, bound)
    yield from _unbound(where, [action.says], bound)
    for condition in action.requires:
        fact = condition.fact
        if condition.error is not None:
            yield from _unbound(where, [condition.message, condition.belief], bound)
            if not condition.message:
                yield _Finding("no_message", fact.predicate, f"{where} gives no message for `{fact.predicate}`")
            denied = not fact.negated or rules.predicates[fact.predicate].denies
            if not condition.belief and not ({*fact.variables} <= bound and denied):
                yield _Finding("no_belief", fact.predicate, f"{where} gives no belief for `{fact.predicate}`")
        if fact.negated and not {*fact.variables} <= bound:
            sentence = f"{where} forbids `{fact.predicate}` of something that is not bound yet"
            yield _Finding("not_bound", fact.predicate, sentence)
        bound.update(fact.variables)
    yield from _unbound(where, [action.success or ""], bound)
    if not _variables(action.effects) <= bound:
        yield _Finding("not_bound", template, f"{where} has an effect on something that is not bound")


def _bad_patterns(rules: Family, where: str, patterns: Iterable[Pattern]) -> Iterator[_Finding]:
    for name, variables, _ in patterns:
        predicate = rules.predicates.get(name)
        if predicate is None:
            yield _Finding("no_predicate", name, f"{where} uses the predicate `{name}`, which is not defined")
        elif len(variables) != len(predicate.of):
            sentence = f"{where} gives `{name}` {len(variables)} arguments instead of {len(predicate.of)}"
            yield _Finding("arguments", name, sentence)
        yield from _unknown_types(rules, where, variables)


def _unknown_types(rules: Family, where: str, variables: Iterable[str]) -> Iterator[_Finding]:
    known = {*rules.objects, *rules.types, *(s for subtypes in rules.types.values() for s in subtypes)}
    for variable in variables:
        if type_of(variable) not in known:
            yield _Finding("no_type", variable, f"{where} uses `{variable}`, whose type is not defined")


def _unbound(where: str, texts: Iterable[str], bound: Iterable[str]) -> Iterator[_Finding]:
    used = {variable for text in texts for variable in parameters(text)}
    for variable in sorted(used - {*bound}):
        sentence = f"{where} says {{{variable}}}, which stands for nothing there"
        yield _Finding("stands_for_nothing", variable, sentence)


def _variables(patterns: Iterable[Pattern]) -> set[str]:
    return {variable for pattern in patterns for variable in pattern.variables}
