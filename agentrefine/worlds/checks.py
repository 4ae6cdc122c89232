"""Consistency of a family's definition: what types alone cannot say."""

from collections.abc import Iterable, Iterator

from agentrefine.errors import UserError
from agentrefine.worlds.facts import Pattern, type_of
from agentrefine.worlds.family import Action, Family, Sentence, parameters


def check_family(rules: Family) -> None:
    """Refuse a family that a game could stumble over.

    Raises:
        UserError: one sentence with the first finding.
    """
    for finding in _findings(rules):
        raise UserError(f"family `{rules.name}`: {finding}; correct the family's file or the module that it uses.")


def _findings(rules: Family) -> Iterator[str]:
    known = set(rules.objects) | set(rules.types) | {s for subtypes in rules.types.values() for s in subtypes}
    for where, pattern in _patterns(rules):
        yield from _strange(rules, known, where, pattern)
    for name, predicate in rules.predicates.items():
        yield from _unbound(f"predicate `{name}`", [predicate.says, predicate.denies], predicate.of)
    for template, action in rules.actions.items():
        yield from _unknown(f"action `{template}`", parameters(template), known)
        yield from _unbound(f"action `{template}`", [action.says], parameters(template))
        yield from _action_findings(rules, template, action)
    for sentence in (*rules.opening, *rules.observation):
        yield from _sentence_findings(sentence)
    for rule in rules.start:
        yield from _unknown("start", [rule.each] if rule.each else [], known)
    for goal in rules.goals:
        bound = _variables([*goal.given, *(condition.fact for condition in goal.conditions)])
        yield from _unbound("goals", [condition.text for condition in goal.conditions], bound)
    for pattern in rules.explore:
        if len(pattern.variables) != 1:
            yield f"explore names `{pattern.predicate}`, which must have one argument"


def _strange(rules: Family, known: set[str], where: str, pattern: Pattern) -> Iterator[str]:
    predicate = rules.predicates.get(pattern.predicate)
    if predicate is None:
        yield f"{where} uses the predicate `{pattern.predicate}`, which is not defined"
    elif len(pattern.variables) != len(predicate.of):
        yield f"{where} gives `{pattern.predicate}` {len(pattern.variables)} arguments instead of {len(predicate.of)}"
    yield from _unknown(where, pattern.variables, known)


def _unknown(where: str, variables: Iterable[str], known: set[str]) -> Iterator[str]:
    yield from (f"{where} uses `{v}`, whose type is not defined" for v in variables if type_of(v) not in known)


def _unbound(where: str, texts: Iterable[str], bound: Iterable[str]) -> Iterator[str]:
    used = {variable for text in texts for variable in parameters(text)}
    yield from (f"{where} says {{{variable}}}, which stands for nothing there" for variable in sorted(used - {*bound}))


def _action_findings(rules: Family, template: str, action: Action) -> Iterator[str]:
    where = f"action `{template}`"
    bound = set(parameters(template))
    for condition in action.requires:
        fact = condition.fact
        if condition.error is not None:
            yield from _unbound(where, [condition.message, condition.belief], bound)
            if not condition.message:
                yield f"{where} gives no message for `{fact.predicate}`"
            if not condition.belief and (not {*fact.variables} <= bound or (fact.negated and not _denies(rules, fact))):
                yield f"{where} gives no belief for `{fact.predicate}`"
        if fact.negated and not {*fact.variables} <= bound:
            yield f"{where} forbids `{fact.predicate}` of something that is not bound yet"
        bound.update(fact.variables)
    yield from _unbound(where, [action.success or ""], bound)
    if not _variables(action.effects) <= bound:
        yield f"{where} has an effect on something that is not bound"


def _denies(rules: Family, fact: Pattern) -> bool:
    return bool(rules.predicates[fact.predicate].denies)


def _sentence_findings(sentence: Sentence) -> Iterator[str]:
    outside = _variables(sentence.for_)
    inside = outside | _variables(sentence.list)
    yield from _unbound(
        f"sentence `{sentence.text}`", [sentence.text], {*outside, "list"} if sentence.list else outside
    )
    yield from _unbound(f"sentence `{sentence.text}`", [sentence.none], outside)
    yield from _unbound(f"sentence `{sentence.text}`", [sentence.show], inside)


def _variables(patterns: Iterable[Pattern]) -> set[str]:
    return {variable for pattern in patterns for variable in pattern.variables}


def _patterns(rules: Family) -> Iterator[tuple[str, Pattern]]:
    for name, predicate in rules.predicates.items():
        for alternative in () if predicate.seen == "always" else predicate.seen:
            yield from ((f"predicate `{name}`", pattern) for pattern in alternative)
    for template, action in rules.actions.items():
        yield from ((f"action `{template}`", p.fact) for p in action.requires)
        yield from ((f"action `{template}`", effect) for effect in action.effects)
    for sentence in (*rules.opening, *rules.observation):
        yield from ((f"sentence `{sentence.text}`", pattern) for pattern in (*sentence.for_, *sentence.list))
    for rule in rules.start:
        yield from (("start", pattern) for pattern in (*rule.facts, *(p for option in rule.any for p in option)))
    for goal in rules.goals:
        yield from (("goals", pattern) for pattern in (*goal.given, *(c.fact for c in goal.conditions)))
    yield from (("explore", pattern) for pattern in rules.explore)
