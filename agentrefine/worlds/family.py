"""Families and themes of worlds: facts and patterns, clauses, and typed data files, which are refused when broken."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from agentrefine.errors import UserError
from agentrefine.files import invalid_value, packaged_path
from agentrefine.game.actions import PLACEHOLDER

_FIRST_PERSON = {"you are": "I am", "you": "I", "your": "my"}
_SECOND_PERSON = re.compile(r"\b(?:you are|you|your)\b")


def capitalised(clause: str) -> str:
    """The clause with a capital letter first."""
    return clause[:1].upper() + clause[1:]


def sentence(clause: str) -> str:
    """A clause as a sentence: `the cup is here` becomes `The cup is here.`"""
    return f"{capitalised(clause)}."


def enumeration(entries: Sequence[str], last: str = " and ") -> str:
    """One or more texts as `the cup, the map and the pen`; `last` joins the last two."""
    *before, end = entries
    return f"{', '.join(before)}{last}{end}" if before else end


def first_person(clause: str) -> str:
    """A clause about the player (`you are in the barn`) as the player says it (`I am in the barn`)."""
    return _SECOND_PERSON.sub(lambda found: _FIRST_PERSON[found.group()], clause)


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


def names_in(text: str, names: Collection[str]) -> list[str]:
    """Those of `names` that a text holds as whole words, in the order of the text."""
    return list(dict.fromkeys(_any_of(frozenset(names)).findall(text))) if names else []


@lru_cache(maxsize=4096)
def _any_of(names: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")


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


Split = Literal["train", "held_out"]
ErrorKind = Literal["logic", "place"]
Range = Annotated[tuple[int, int], Field(strict=False)]
Noun = Annotated[str, Field(pattern=r"^[a-z]+( [a-z]+){0,2}$")]
"""A name of one to three lower-case words: it stands after an article, so it never begins a sentence."""

ANY_NAME = r"\w+(?: \w+){0,2}?"
"""The regular expression of what may stand for a name: one to three words."""


class Definition(BaseModel):
    """A part of a data file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Predicate(Definition):
    """A relation between objects.

    Attributes:
        of: the variables (types) of its arguments; `seen` and the texts use them.
        seen: when an observation shows such a fact: always, or when one of the alternatives holds.
        says, denies: the fact and its opposite as clauses: lower case, without the final full stop.
        nests: (inner, outer), where such a fact is that one object contains the other.
        tell: whether an agent mentions such facts as reasons.
        about: objects, the player, or the structure that a script's nesting shows anyway.
    """

    of: tuple[str, ...]
    seen: Literal["always"] | tuple[tuple[PatternField, ...], ...]
    says: str
    denies: str = ""
    nests: tuple[str, str] | None = None
    tell: bool = False
    about: Literal["objects", "player", "structure"] = "objects"

    def text(self, fact: Fact, *, holds: bool = True) -> str:
        """A ground fact, or its opposite, in words."""
        return (self.says if holds else self.denies).format(**dict(zip(self.of, fact[1:], strict=True)))


class Precondition(Definition):
    """What must hold for an action. Preconditions are tested in order; only the first that fails is reported.

    Attributes:
        fact: the pattern; a variable that is not bound yet takes the first object that fits.
        error: the kind of mistake if it fails; None where it cannot fail after the preconditions before it.
        message: what the observation says then, as a clause.
        belief: the wrong belief behind such a mistake; the predicate's own words by default.
    """

    fact: PatternField
    error: ErrorKind | None = None
    message: str = ""
    belief: str = ""


class Action(Definition):
    """A typed action.

    Attributes:
        does: its description in the instructions.
        says: the action as a sentence says it, in the infinitive, such as `take the {item} from the {spot}`.
        requires: preconditions in the order in which they are tested.
        effects: facts added and, with `not`, deleted.
        travel: it only brings the player elsewhere.
        success: what the observation says first; "You" and `says` by default.
    """

    does: str
    says: str
    requires: tuple[Precondition, ...]
    effects: tuple[PatternField, ...]
    travel: bool = False
    success: str | None = None


class Sentence(Definition):
    """A sentence of an observation, said once for each way in which `for` matches what is visible.

    Attributes:
        for_: the patterns that must match; none: said once.
        list: what `{list}` in the text enumerates, each entry rendered by `show` ("the cup, the map and the pen").
        none: said instead when the enumeration is empty; nothing by default.
    """

    for_: tuple[PatternField, ...] = Field(default=(), alias="for")
    list: tuple[PatternField, ...] = ()
    show: str = ""
    text: str
    none: str = ""


class Objects(Definition):
    """How many objects of a type a layout holds, and which of a theme's nouns name them (by default the type's own)."""

    pool: str
    count: Range


class StartRule(Definition):
    """Facts of a layout, for each object of a type; other variables are drawn at random.

    Attributes:
        each: the type; None: once.
        facts: added for each.
        any: one of these alternatives is added too.
        times: how often the rule is applied to each object.
    """

    each: str | None = None
    facts: tuple[PatternField, ...] = ()
    any: tuple[tuple[PatternField, ...], ...] = ()
    times: int = 1


class Condition(Definition):
    """A fact that the goal demands, and how the goal says it."""

    fact: PatternField
    text: str


class GoalPart(Definition):
    """A part of the goal, drawn `count` times with different main objects (the first argument of its first fact).

    Attributes:
        given: facts of the start that the part's objects must satisfy.
        conditions: what must hold in the end; none may hold at the start.
    """

    given: tuple[PatternField, ...] = ()
    count: Range = (1, 1)
    conditions: tuple[Condition, ...] = Field(min_length=1)


class Family(Definition):
    """A kind of world: what there is, what can be done, what is asked (a domain in the manner of STRIPS).

    Attributes:
        name: the file's name.
        split: tuned on, or kept for evaluation.
        types: for each supertype, its subtypes; every other type is a leaf.
        predicates, actions: by name and by template; a template's placeholders are typed parameters.
        opening: sentences of the first observation only; observation: of every observation.
        objects: how many of each leaf type.
        start, goals: how layouts and goals are drawn.
        explore: facts that a player without a plan makes true to learn more.
        plan: shortest and longest accepted plan, in actions.
    """

    name: str
    split: Split
    types: dict[str, tuple[str, ...]] = {}
    predicates: dict[str, Predicate]
    actions: dict[str, Action]
    opening: tuple[Sentence, ...] = ()
    observation: tuple[Sentence, ...]
    objects: dict[str, Objects]
    start: tuple[StartRule, ...]
    goals: tuple[GoalPart, ...]
    explore: tuple[PatternField, ...] = ()
    plan: Range

    @cached_property
    def static(self) -> frozenset[str]:
        """The predicates that no action changes."""
        changed = {effect.predicate for action in self.actions.values() for effect in action.effects}
        return frozenset(self.predicates) - changed

    def leaves(self, type_name: str) -> Iterator[str]:
        """The leaf types of a type, itself included."""
        if type_name not in self.types:
            yield type_name
        for subtype in self.types.get(type_name, ()):
            yield from self.leaves(subtype)


class Theme(Definition):
    """The nouns of a setting: for each leaf type, names of one to three lower-case words, none part of another."""

    name: str
    split: Split
    nouns: dict[str, tuple[Noun, ...]]

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
        nouns = [noun for pool in self.nouns.values() for noun in pool]
        repeated = min((noun for noun in nouns if nouns.count(noun) > 1), default=None)
        if repeated:
            raise ValueError(f"the noun `{repeated}` occurs twice")
        for noun in nouns:
            longer = next((other for other in nouns if other != noun and f" {noun} " in f" {other} "), None)
            if longer:
                raise ValueError(f"the noun `{noun}` is part of the noun `{longer}`")
        return self


class Move(NamedTuple):
    """A known action: its canonical template, and a name for each of the template's placeholders."""

    template: str
    binding: Binding

    @property
    def text(self) -> str:
        """The action in canonical form."""
        return self.template.format(**self.binding)


def parameters(template: str) -> tuple[str, ...]:
    """The placeholders of a template, in order."""
    return tuple(PLACEHOLDER.findall(template))


def template_regex(template: str, value: str = r"\w+(?: \w+)*") -> str:
    r"""The regular expression of a template's actions, such as `^open (\w+(?: \w+)*)$`; it runs in linear time.

    `value` is the regular expression of what a placeholder stands for.
    """
    parts = PLACEHOLDER.split(template)
    patterns = (f"({value})" if i % 2 else re.escape(part).replace(r"\ ", " ") for i, part in enumerate(parts))
    return f"^{''.join(patterns)}$"


def load_family(name: str, text: str, modules: dict[str, dict[str, Any]]) -> Family:
    """Read a family from its YAML text; `uses` names the modules whose definitions it shares.

    Raises:
        UserError: the file or one of its modules is invalid.
    """
    own = read_mapping(text, f"family `{name}`")
    merged: dict[str, Any] = {}
    for module in own.pop("uses", []):
        if module not in modules:
            raise UserError(
                "unknown_name",
                f"family `{name}`: uses the module `{module}`, which does not exist; correct `uses`.",
                family=name,
                name=module,
            )
        _merge(merged, modules[module])
    _merge(merged, own)
    objects = merged.get("objects")
    if not isinstance(objects, dict):
        raise UserError(
            "bad_value",
            f"family `{name}`: `objects` must give the number of objects of each type; correct it.",
            family=name,
            key="objects",
        )
    merged["objects"] = {
        kind: value if isinstance(value, dict) else {"pool": kind, "count": value} for kind, value in objects.items()
    }
    try:
        return Family.model_validate({"name": name, **merged})
    except ValidationError as error:
        raise invalid_value(error, f"family `{name}`", "Correct the key.", family=name) from error


def load_theme(name: str, text: str) -> Theme:
    """Read a theme from its YAML text; raises UserError where it is invalid."""
    try:
        return Theme.model_validate({"name": name, **read_mapping(text, f"theme `{name}`")})
    except ValidationError as error:
        raise invalid_value(error, f"theme `{name}`", "Correct the key.", theme=name) from error


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """The mapping at the top of a YAML text; raises UserError, which names `where`, if there is none."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            "not_yaml", f"{where}: not valid YAML ({' '.join(str(error).split())}); correct it.", place=where
        ) from error
    if not isinstance(value, dict):
        raise UserError("not_mapping", f"{where}: expected a mapping of keys at the top; correct it.", place=where)
    return value


def _merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        before = into.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            into[key] = before | value
        elif isinstance(value, list) and isinstance(before, list) and key != "plan":
            into[key] = before + value
        else:
            into[key] = value


def data_files(folder: str) -> Iterable[tuple[str, str]]:
    """Name and text of the YAML files in a folder of this package, sorted by name."""
    files = packaged_path("agentrefine.worlds", folder).iterdir()
    found = sorted((f.name.removesuffix(".yaml"), f) for f in files if f.name.endswith(".yaml"))
    return [(name, file.read_text(encoding="utf-8")) for name, file in found]
