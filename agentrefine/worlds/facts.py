"""Facts of worlds, patterns of facts with variables, and the moves that change them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator

Fact = tuple[str, ...]
"""A ground fact: the predicate and its arguments, such as `("in", "apple", "barn")`."""

Binding = dict[str, str]
"""Variables and the objects that they stand for."""

Members = Mapping[str, Sequence[str]]
"""For each type, the objects that belong to it or to one of its subtypes, in the world's order."""

Index = Mapping[str, Sequence[Fact]]
"""Facts by predicate, sorted."""


class Pattern(NamedTuple):
    """A fact with variables: `in item spot`, or `not in item spot`. A variable is its type, with a digit if needed."""

    predicate: str
    variables: tuple[str, ...]
    negated: bool = False

    def ground(self, binding: Mapping[str, str]) -> Fact:
        """The fact that the pattern stands for under a complete binding."""
        return (self.predicate, *(binding[variable] for variable in self.variables))


def parse_pattern(text: object) -> Pattern:
    """Read a pattern from its text; raises ValueError if it is not a predicate and its variables."""
    words = text.split() if isinstance(text, str) else []
    negated = words[:1] == ["not"]
    words = words[1:] if negated else words
    if not words:
        raise ValueError("expected a predicate and its variables, such as `in item spot`")
    return Pattern(words[0], tuple(words[1:]), negated)


PatternField = Annotated[Pattern, BeforeValidator(parse_pattern)]
"""A pattern that is written as text in a data file."""


def type_of(variable: str) -> str:
    """The type of a variable: its name without the digit that sets it apart from another of the type."""
    return variable.rstrip("0123456789")


def index(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    """Facts by predicate, in sorted order."""
    by_predicate: dict[str, list[Fact]] = {}
    for fact in sorted(facts):
        by_predicate.setdefault(fact[0], []).append(fact)
    return by_predicate


def matches(pattern: Pattern, facts: Index, members: Members, binding: Binding) -> Iterator[Binding]:
    """The ways to complete `binding` so that the (positive) pattern is one of the facts."""
    for fact in facts.get(pattern.predicate, ()):
        completed = binding
        for variable, name in zip(pattern.variables, fact[1:], strict=True):
            bound = completed.get(variable)
            if bound is None and name in members.get(type_of(variable), ()):
                completed = {**completed, variable: name}
            elif bound != name:
                break
        else:
            yield completed


def query(patterns: Sequence[Pattern], facts: Index, members: Members, binding: Binding) -> Iterator[Binding]:
    """The ways to complete `binding` so that every (positive) pattern is one of the facts, in a fixed order."""
    if not patterns:
        yield binding
        return
    for completed in matches(patterns[0], facts, members, binding):
        yield from query(patterns[1:], facts, members, completed)


class Move(NamedTuple):
    """A known action: its canonical template, and a name for each of the template's placeholders."""

    template: str
    binding: Binding

    @property
    def text(self) -> str:
        """The action in canonical form."""
        return self.template.format(**self.binding)
