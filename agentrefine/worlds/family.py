"""Families and themes of worlds: typed data files, which are refused when broken."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from agentrefine.errors import UserError
from agentrefine.files import invalid_value, packaged_path, parse_yaml
from agentrefine.worlds.facts import Fact, PatternField

Split = Literal["train", "held_out"]
ErrorKind = Literal["logic", "place"]
Range = Annotated[tuple[int, int], Field(strict=False)]
Noun = Annotated[str, Field(pattern=r"^[a-z]+( [a-z]+){0,2}$")]
"""A name of one to three lower-case words: it stands after an article, so it never begins a sentence."""


class Definition(BaseModel):
    """A part of a data file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


DefinitionT = TypeVar("DefinitionT", bound=Definition)


class Predicate(Definition):
    """A relation between objects.

    Example: `in: {of: [item, spot], seen: [[at spot]], says: "the {item} is in the {spot}", nests: [item, spot]}`

    Attributes:
        of: the variables (types) of its arguments; `seen` and the texts use them.
        seen: when an observation shows such a fact: `always`, or when all patterns of one of the alternatives hold.
        says, denies: the fact and its opposite as clauses: lower case, without the final full stop.
        nests: (inner, outer), where such a fact is that one object contains the other.
        tell: whether an agent mentions such facts as reasons.
        about: objects, the player, or the structure that a script's nesting shows anyway.
    """

    of: tuple[str, ...]
    seen: Annotated[
        tuple[tuple[PatternField, ...], ...], BeforeValidator(lambda seen: [[]] if seen == "always" else seen)
    ]
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

    Example: `{fact: at spot, error: place, message: "the {spot} is not here"}`

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

    Example: `go to {place}: {does: "Go to a place.", says: "go to the {place}", requires: [...], effects: [at place]}`

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

    Example: `{for: [at place], list: [in item place], show: "the {item}", text: "You see {list}.", none: "..."}`

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
    """How many objects of a type a layout holds, and which of a theme's nouns name them (by default the type's own).

    Example: `vault: {pool: container, count: [1, 1]}`
    """

    pool: str
    count: Range


def _with_pools(objects: object) -> object:
    """In a data file a range alone stands for a number of objects that the type's own nouns name."""
    if not isinstance(objects, dict):
        return objects
    return {kind: {"pool": kind, "count": n} if isinstance(n, list) else n for kind, n in objects.items()}


class StartRule(Definition):
    """Facts of a layout, for each object of a type; other variables are drawn at random.

    Example: `{each: item, any: [[in item place], [in item container]]}`

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
    """A fact that the goal demands, and how the goal says it: `{fact: in item place, text: "put the {item} ..."}`."""

    fact: PatternField
    text: str


class GoalPart(Definition):
    """A part of the goal, drawn `count` times with different main objects (the first argument of its first fact).

    Example: `{given: [in item spot], count: [1, 2], conditions: [{fact: hold item, text: "hold the {item}"}]}`

    Attributes:
        given: facts of the start that the part's objects must satisfy.
        conditions: what must hold in the end; none may hold at the start.
    """

    given: tuple[PatternField, ...] = ()
    count: Range = (1, 1)
    conditions: tuple[Condition, ...] = Field(min_length=1)


class Family(Definition):
    """A kind of world: what there is, what can be done, what is asked (a domain in the manner of STRIPS).

    Example: `{split: train, uses: [walk, carry], objects: {place: [3, 4]}, start: [...], goals: [...], plan: [2, 9]}`

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
    objects: Annotated[dict[str, Objects], BeforeValidator(_with_pools)]
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
    """The nouns of a setting: for each leaf type, names of one to three lower-case words, none part of another.

    Example: `{split: train, nouns: {place: [barn, field], item: [apple], container: [...]}}`
    """

    name: str
    split: Split
    nouns: dict[str, tuple[Noun, ...]]

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
        nouns = [noun for pool in self.nouns.values() for noun in pool]
        repeated = min((noun for noun in nouns if nouns.count(noun) > 1), default=None)
        if repeated:
            raise PydanticCustomError("repeated_noun", "the noun `{noun}` occurs twice", {"noun": repeated})
        for noun in nouns:
            longer = next((other for other in nouns if other != noun and f" {noun} " in f" {other} "), None)
            if longer:
                words = {"noun": noun, "longer": longer}
                raise PydanticCustomError("part_of_noun", "the noun `{noun}` is part of the noun `{longer}`", words)
        return self


def load_family(name: str, text: str, modules: dict[str, dict[str, Any]]) -> Family:
    """Read a family from its YAML text; `uses` names the modules whose definitions it shares.

    Raises:
        UserError: the file or one of its modules is invalid.
    """
    own = read_mapping(text, f"family `{name}`")
    merged: dict[str, Any] = {}
    for module in own.pop("uses", []):
        if module not in modules:
            message = f"family `{name}`: uses the module `{module}`, which does not exist; correct `uses`."
            raise UserError("unknown_name", message, family=name, name=module)
        _merge(merged, modules[module])
    _merge(merged, own)
    return _validated(Family, "family", name, merged)


def load_theme(name: str, text: str) -> Theme:
    """Read a theme from its YAML text; raises UserError where it is invalid."""
    return _validated(Theme, "theme", name, read_mapping(text, f"theme `{name}`"))


def _validated(model: type[DefinitionT], kind: str, name: str, values: dict[str, Any]) -> DefinitionT:
    try:
        return model.model_validate({"name": name, **values})
    except ValidationError as error:
        named = {kind: name, "rule": error.errors(include_url=False)[0]["type"]}
        raise invalid_value(error, f"{kind} `{name}`", "Correct the key.", **named) from error


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """The mapping at the top of a YAML text; raises UserError, which names `where`, if there is none."""
    value = parse_yaml(text, where)
    if not isinstance(value, dict):
        raise UserError("not_mapping", f"{where}: expected a mapping of keys at the top; correct it.", file=where)
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


def data_files(folder: str) -> dict[str, str]:
    """Names and texts of the YAML files in a folder of this package, sorted by name."""
    files = packaged_path("agentrefine.worlds", folder).glob("*.yaml")
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(files, key=lambda file: file.stem)}
