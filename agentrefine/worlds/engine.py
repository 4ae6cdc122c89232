"""The game: one engine plays every family. Any text is answered, none raises."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from agentrefine.worlds import catalogue, observation
from agentrefine.worlds.facts import Binding, Fact, Index, index, matches, type_of
from agentrefine.worlds.family import Action, Move, Precondition, parameters, template_regex
from agentrefine.worlds.layout import World
from agentrefine.worlds.wording import Wording

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
