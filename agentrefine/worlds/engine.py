"""The game: one engine plays every family. Any text is answered, none raises."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from agentrefine.worlds import catalogue
from agentrefine.worlds import engine as observation
from agentrefine.worlds.family import (
    Action,
    Binding,
    Fact,
    Index,
    Members,
    Move,
    Precondition,
    Predicate,
    Sentence,
    enumeration,
    index,
    matches,
    parameters,
    query,
    template_regex,
    type_of,
)
from agentrefine.worlds.layout import World
from agentrefine.worlds.wording import Wording

WHEREABOUTS = ("in", "stands", "part")
"""Predicates that say where an object is: their first argument is in the second."""


MEANS = ("washer", "heater", "device", "key", "vault", "tool", "money")
"""Types of objects that goals need without naming them."""


def visible(world: World, facts: Index) -> set[Fact]:
    """The facts that the player sees in a state."""
    seen: set[Fact] = set()
    for name, known in facts.items():
        predicate = world.rules.predicates[name]
        if predicate.seen == "always":
            seen.update(known)
        else:
            seen.update(fact for fact in known if _is_seen(predicate, fact, facts, world.members))
    return seen


def _is_seen(predicate: Predicate, fact: Fact, facts: Index, members: Members) -> bool:
    binding = dict(zip(predicate.of, fact[1:], strict=True))
    alternatives = () if predicate.seen == "always" else predicate.seen
    return any(next(query(patterns, facts, members, binding), None) is not None for patterns in alternatives)


def opening(world: World, seen: Collection[Fact]) -> str:
    """What is told once, at the start of the game, from the visible facts."""
    return _say(world.rules.opening, index(seen), world.members)


def status(
    world: World,
    seen: Collection[Fact],
    state: Collection[Fact],
    known: Collection[Fact],
    unseen_places: Collection[str],
) -> str:
    """The bookkeeping: where the player is, what is here, what is held, which places are new, what is left of the goal.

    After what is left stands what the player has seen of the objects of the open conditions (`notes`).
    """
    open_conditions = [condition for condition in world.conditions if condition.fact not in state]
    left = [condition.text for condition in open_conditions]
    texts = catalogue.texts()
    rest = texts["left"].format(conditions=enumeration(left)) if left else texts["complete"]
    if unseen_places:
        places = enumeration([texts["named_value"].format(value=name) for name in unseen_places], texts["or"])
        rest = f"{texts['unseen'].format(places=places)} {rest}"
    if open_conditions:
        wanted = dict.fromkeys(name for condition in open_conditions for name in condition.fact[1:])
        rest = " ".join([rest, *notes(world, known, tuple(wanted))])
    return f"{_say(world.rules.observation, index(seen), world.members)} {rest}"


def notes(world: World, known: Collection[Fact], names: Collection[str]) -> Iterator[str]:
    """Where the player last saw the objects in `names` and the means (washers, keys, ...), or who sells them.

    Places, and what is held, are left out; of `names`, what has not been seen is said to be so.
    """
    texts = catalogue.texts()
    here = next((fact[1] for fact in known if fact[0] == "at"), "")
    means = [name for kind in MEANS for name in world.members.get(kind, ()) if name not in names]
    sellers = {fact[2]: fact[1] for fact in sorted(known) if fact[0] == "sells" and fact[2] in names}
    means += dict.fromkeys(sellers.values())
    for name in (*names, *means):
        if name in world.members["place"] or ("hold", name) in known:
            continue
        if name in sellers:
            yield texts["sold"].format(name=name, person=sellers[name])
            continue
        spot = next((fact[2] for fact in sorted(known) if fact[0] in WHEREABOUTS and fact[1] == name), None)
        if spot is None and name in means:
            continue
        if spot is None:
            yield texts["unknown"].format(name=name)
        elif spot == here:
            yield texts["here"].format(name=name)
        else:
            yield texts["elsewhere"].format(name=name, spot=spot)


def _say(sentences: tuple[Sentence, ...], facts: Index, members: Members) -> str:
    """All sentences, each once; those with the same text (of several modules) join their lists."""
    said: dict[str, dict[str, None]] = {}
    otherwise: dict[str, str] = {}
    for sentence in sentences:
        for binding in query(sentence.for_, facts, members, {}):
            text = sentence.text.format(list="{list}", **binding)
            entries = said.setdefault(text, {})
            entries.update(
                dict.fromkeys(sentence.show.format(**b) for b in query(sentence.list, facts, members, binding))
            )
            otherwise[text] = otherwise.get(text) or sentence.none.format(**binding)
    return " ".join(filled for text, entries in said.items() if (filled := _fill(text, list(entries), otherwise[text])))


def _fill(text: str, entries: list[str], none: str) -> str:
    if "{list}" not in text:
        return text
    return text.format(list=enumeration(entries)) if entries else none


MistakeKind = Literal["parameter_error", "logic_error", "place_error"]


class Outcome(NamedTuple):
    """What the world answers to an action.

    Attributes:
        observation: what the player sees next.
        error: why nothing happened: the action or a value is not known (parameter), senseless now (logic) or about
            something that is elsewhere (place); None if the action was done. Only the first reason is given.
        completed: every condition of the goal holds, or has held together before.
    """

    observation: str
    error: MistakeKind | None
    completed: bool


class Refusal(NamedTuple):
    """Why an action is not done.

    Attributes:
        error: the kind of mistake.
        message: what the observation says.
        belief: the wrong belief, in the words of the observations.

    Both texts are clauses: lower case, without a full stop.
    """

    error: MistakeKind
    message: str
    belief: str


class Game:
    """A world being played.

    Attributes:
        world: the world at the start.
        wording: the wording of its actions; None: the canonical one.
        state: the facts that hold now. Hidden from the player.
        known: the facts that the observations so far have shown and that still hold.
        ever_known: the facts that have been known at any time.
        progress: best share of the goal's conditions that held at once so far, in [0, 1].
        completed: whether all of them have held at once.
    """

    def __init__(self, world: World, wording: Wording | None = None) -> None:
        self.world = world
        self.wording = wording
        self.state = world.start
        self.known: frozenset[Fact] = frozenset()
        self.ever_known: frozenset[Fact] = frozenset()
        self.progress = 0.0
        self.completed = False
        self._facts: Index = index(self.state)
        self._seen: set[Fact] = set()
        self._look()

    def copy(self) -> Game:
        """The same game at the same point; playing one does not change the other."""
        return copy.copy(self)

    def first_observation(self) -> str:
        """What the player sees before the first action."""
        start = Game(self.world, self.wording)
        return f"{observation.opening(start.world, start._seen)} {start._status()}".lstrip()

    def step(self, action: str) -> Outcome:
        """Take one action, written in the game's wording."""
        move = self.read(action)
        if isinstance(move, Refusal):
            return self._refused(move)
        bound = self.judge(move)
        if isinstance(bound, Refusal):
            return self._refused(bound)
        self._apply(self.world.rules.actions[move.template], bound)
        said = self._success(move, bound)
        return Outcome(f"{said} {self._status()}".lstrip(), None, self.completed)

    def applicable(self) -> list[str]:
        """The actions that can be done now, in the game's wording."""
        return [self.render(move) for move in self.moves() if not isinstance(self.judge(move), Refusal)]

    def moves(self) -> Iterator[Move]:
        """Every known action with all known values, possible now or not."""
        for template in self.world.rules.actions:
            names = parameters(template)
            for values in product(*(self.world.members[type_of(name)] for name in names)):
                yield Move(template, dict(zip(names, values, strict=True)))

    def unexplored(self) -> Iterator[Fact]:
        """What could be made true to learn more and has not been; places in their order from the present one on."""
        for pattern in self.world.rules.explore:
            facts = [(pattern.predicate, name) for name in self.world.members[pattern.variables[0]]]
            now = next((position for position, fact in enumerate(facts) if fact in self.known), -1)
            yield from (fact for fact in facts[now + 1 :] + facts[: now + 1] if fact not in self.ever_known)

    def render(self, move: Move) -> str:
        """An action in the game's wording."""
        template = self.wording.templates[move.template] if self.wording else move.template
        return template.format(**move.binding)

    def read(self, action: str) -> Move | Refusal:
        """Recognise an action that is written in the game's wording; a parameter error if it is not known."""
        for template in self.world.rules.actions:
            written = self.wording.templates[template] if self.wording else template
            found = _pattern(written).fullmatch(action.strip())
            if found is None:
                continue
            binding = dict(zip(parameters(written), found.groups(), strict=True))
            for name, value in binding.items():
                if value not in self.world.members[type_of(name)]:
                    return self._unknown_value(type_of(name), value)
            return Move(template, binding)
        return Refusal("parameter_error", catalogue.texts()["unknown_action"], "")

    def judge(self, move: Move) -> Binding | Refusal:
        """Test an action's preconditions: all objects that it involves, or the first reason why it cannot be done."""
        binding = move.binding
        for condition in self.world.rules.actions[move.template].requires:
            found = next(matches(condition.fact, self._facts, self.world.members, binding), None)
            if (found is not None) == condition.fact.negated:
                return self._failed(condition, binding)
            binding = found or binding
        return binding

    def _failed(self, condition: Precondition, binding: Binding) -> Refusal:
        if condition.error is None:
            return Refusal("logic_error", catalogue.texts()["impossible"], "")
        belief = condition.belief.format(**binding)
        if not belief:
            predicate = self.world.rules.predicates[condition.fact.predicate]
            belief = predicate.text(condition.fact.ground(binding), holds=not condition.fact.negated)
        kind: MistakeKind = "place_error" if condition.error == "place" else "logic_error"
        return Refusal(kind, condition.message.format(**binding), belief)

    def _unknown_value(self, type_name: str, value: str) -> Refusal:
        texts = catalogue.texts()
        known = value in catalogue.names()
        shown = texts["named_value"].format(value=value) if known else texts["unnamed_value"]
        return Refusal(
            "parameter_error",
            texts["unknown_value"].format(value=shown, type=type_name),
            texts["belief_value"].format(value=shown, type=type_name),
        )

    def _refused(self, refusal: Refusal) -> Outcome:
        said = catalogue.texts()["refused"].format(message=refusal.message)
        return Outcome(f"{said} {self._status()}", refusal.error, self.completed)

    def _apply(self, action: Action, binding: Binding) -> None:
        deleted = {effect.ground(binding) for effect in action.effects if effect.negated}
        added = {effect.ground(binding) for effect in action.effects if not effect.negated}
        self.state = (self.state - deleted) | added
        self.known = (self.known - deleted) | added
        self._facts = index(self.state)
        self._look()

    def _look(self) -> None:
        self._seen = observation.visible(self.world, self._facts)
        self.known |= self._seen
        self.ever_known |= self.known
        holding = sum(condition.fact in self.state for condition in self.world.conditions)
        self.progress = max(self.progress, holding / len(self.world.conditions))
        self.completed = self.completed or holding == len(self.world.conditions)

    def _success(self, move: Move, binding: Binding) -> str:
        said = self.world.rules.actions[move.template].success
        if said is None:
            said = catalogue.texts()["success"].format(says=self.world.rules.actions[move.template].says)
        return str(said).format(**binding)

    def _status(self) -> str:
        unseen_places = [fact[1] for fact in self.unexplored() if fact[1] in self.world.members["place"]]
        return observation.status(self.world, self._seen, self.state, self.known, unseen_places)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(template_regex(template, catalogue.name_regex()), re.ASCII)
