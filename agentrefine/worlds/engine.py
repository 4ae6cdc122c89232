"""The game: one engine plays every family. Any text is answered, none raises."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import product
from typing import Literal, NamedTuple, get_args

from agentrefine.worlds import catalogue
from agentrefine.worlds.facts import Binding, Fact, Index, Members, Move, index, matches, query, type_of
from agentrefine.worlds.family import Precondition, Sentence
from agentrefine.worlds.language import Paraphrase, enumeration, parameters, template_pattern
from agentrefine.worlds.layout import World

LOCATION_PREDICATES = ("in", "stands", "part")
"""The predicates that say where an object is: their first argument is in the second."""
REQUIRED_TYPES = ("washer", "heater", "device", "key", "vault", "tool", "money")
"""The types of objects that goals need without naming them."""

MistakeKind = Literal["parameter_error", "logic_error", "place_error"]
MISTAKE_KINDS: tuple[MistakeKind, ...] = get_args(MistakeKind)


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
    """Why an action is not done. Both texts are clauses: lower case, without a full stop.

    Attributes:
        error: the kind of mistake.
        message: what the observation says.
        belief: the wrong belief, in the words of the observations.
    """

    error: MistakeKind
    message: str
    belief: str


class Game:
    """A world being played. A shallow copy is the same game at the same point: playing one does not change the other.

    Attributes:
        world: the world at the start.
        paraphrase: the form of its actions; None: the canonical one.
        state: the facts that hold now. Hidden from the player.
        known: the facts that the observations so far have shown and that still hold.
        ever_known: the facts that have been known at any time.
        progress: best share of the goal's conditions that held at once so far, in [0, 1].
        completed: whether all of them have held at once.
    """

    def __init__(self, world: World, paraphrase: Paraphrase | None = None) -> None:
        self.world = world
        self.paraphrase = paraphrase
        self.state = world.start
        self.known: frozenset[Fact] = frozenset()
        self.ever_known: frozenset[Fact] = frozenset()
        self.progress = 0.0
        self.completed = False
        self._look()

    def first_observation(self) -> str:
        """What the player sees before the first action."""
        start = Game(self.world, self.paraphrase)
        opening = _say(self.world.rules.opening, index(start._seen), self.world.members)
        return f"{opening} {start._status()}".lstrip()

    def refusal(self, action: str) -> Refusal | None:
        """Why an action, in the game's paraphrase, cannot be done now; None where it can."""
        move = self.read(action)
        found = move if isinstance(move, Refusal) else self.judge(move)
        return found if isinstance(found, Refusal) else None

    def step(self, action: str) -> Outcome:
        """Take one action, in the game's paraphrase."""
        move = self.read(action)
        if isinstance(move, Refusal):
            return self._refused(move)
        bound = self.judge(move)
        if isinstance(bound, Refusal):
            return self._refused(bound)
        taken = self.world.rules.actions[move.template]
        deleted = {effect.ground(bound) for effect in taken.effects if effect.negated}
        added = {effect.ground(bound) for effect in taken.effects if not effect.negated}
        self.state = (self.state - deleted) | added
        self.known = (self.known - deleted) | added
        self._look()
        said: str = catalogue.texts()["success"].format(says=taken.says) if taken.success is None else taken.success
        return Outcome(f"{said.format(**bound)} {self._status()}".lstrip(), None, self.completed)

    def applicable(self) -> list[str]:
        """The actions that can be done now, in the game's paraphrase."""
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
        """An action in the game's paraphrase."""
        template = self.paraphrase.templates[move.template] if self.paraphrase else move.template
        return template.format(**move.binding)

    def read(self, action: str) -> Move | Refusal:
        """Recognise an action in the game's paraphrase; a parameter error if it is not known."""
        texts = catalogue.texts()
        for template in self.world.rules.actions:
            written = self.paraphrase.templates[template] if self.paraphrase else template
            found = template_pattern(written, catalogue.name_regex()).fullmatch(action.strip())
            if found is None:
                continue
            binding = dict(zip(parameters(written), found.groups(), strict=True))
            for kind, value in ((type_of(name), value) for name, value in binding.items()):
                if value not in self.world.members[kind]:
                    known = value in catalogue.names()
                    shown = texts["named_value"].format(value=value) if known else texts["unnamed_value"]
                    both = (texts[key].format(value=shown, type=kind) for key in ("unknown_value", "belief_value"))
                    return Refusal("parameter_error", *both)
            return Move(template, binding)
        return Refusal("parameter_error", texts["unknown_action"], "")

    def judge(self, move: Move) -> Binding | Refusal:
        """Test an action's preconditions: all objects that it involves, or the first reason why it cannot be done."""
        binding = move.binding
        for condition in self.world.rules.actions[move.template].requires:
            found = next(matches(condition.fact, self._facts, self.world.members, binding), None)
            if (found is not None) == condition.fact.negated:
                return self._failed(condition, binding)
            binding = found or binding
        return binding

    def _refused(self, refusal: Refusal) -> Outcome:
        said = catalogue.texts()["refused"].format(message=refusal.message)
        return Outcome(f"{said} {self._status()}", refusal.error, self.completed)

    def _failed(self, condition: Precondition, binding: Binding) -> Refusal:
        if condition.error is None:
            return Refusal("logic_error", catalogue.texts()["impossible"], "")
        belief = condition.belief.format(**binding)
        if not belief:
            predicate = self.world.rules.predicates[condition.fact.predicate]
            belief = predicate.text(condition.fact.ground(binding), holds=not condition.fact.negated)
        kind: MistakeKind = "place_error" if condition.error == "place" else "logic_error"
        return Refusal(kind, condition.message.format(**binding), belief)

    def _look(self) -> None:
        """See what is visible in the present state, and count the conditions that hold."""
        self._facts = index(self.state)
        self._seen = {fact for name in self._facts for fact in self._visible(name)}
        self.known |= self._seen
        self.ever_known |= self.known
        holding = sum(condition.fact in self.state for condition in self.world.conditions)
        self.progress = max(self.progress, holding / len(self.world.conditions))
        self.completed = self.completed or holding == len(self.world.conditions)

    def _visible(self, name: str) -> Iterator[Fact]:
        """The facts of a predicate that the player sees."""
        predicate = self.world.rules.predicates[name]
        for fact in self._facts[name]:
            binding = dict(zip(predicate.of, fact[1:], strict=True))
            ways = (query(patterns, self._facts, self.world.members, binding) for patterns in predicate.seen)
            if any(next(way, None) is not None for way in ways):
                yield fact

    def _status(self) -> str:
        """Where the player is, what is here, what is held, which places are new, what is left of the goal.

        After what is left stands what the player has seen of the objects of the open conditions.
        """
        texts = catalogue.texts()
        parts = [_say(self.world.rules.observation, index(self._seen), self.world.members)]
        unseen = [fact[1] for fact in self.unexplored() if fact[1] in self.world.members["place"]]
        if unseen:
            places = enumeration([texts["named_value"].format(value=name) for name in unseen], texts["or"])
            parts.append(texts["unseen"].format(places=places))
        left = [condition for condition in self.world.conditions if condition.fact not in self.state]
        if not left:
            return " ".join([*parts, texts["complete"]])
        parts.append(texts["left"].format(conditions=enumeration([condition.text for condition in left])))
        wanted = dict.fromkeys(name for condition in left for name in condition.fact[1:])
        return " ".join([*parts, *self._notes(tuple(wanted))])

    def _notes(self, names: Collection[str]) -> Iterator[str]:
        """Where the player last saw the objects in `names` and the required ones (keys, ...), or who sells them.

        Places, and what is held, are left out; of `names`, what has not been seen is said to be so.
        """
        texts = catalogue.texts()
        known = sorted(self.known)
        here = next((fact[1] for fact in known if fact[0] == "at"), "")
        required = [name for kind in REQUIRED_TYPES for name in self.world.members.get(kind, ()) if name not in names]
        sellers = {fact[2]: fact[1] for fact in known if fact[0] == "sells" and fact[2] in names}
        required += dict.fromkeys(sellers.values())
        for name in (*names, *required):
            if name in self.world.members["place"] or ("hold", name) in self.known:
                continue
            spot = next((fact[2] for fact in known if fact[0] in LOCATION_PREDICATES and fact[1] == name), None)
            if name in sellers:
                yield texts["sold"].format(name=name, person=sellers[name])
            elif spot is not None:
                yield texts["here" if spot == here else "elsewhere"].format(name=name, spot=spot)
            elif name not in required:
                yield texts["unknown"].format(name=name)


def _say(sentences: tuple[Sentence, ...], facts: Index, members: Members) -> str:
    """All sentences, each once; those with the same text (of several modules) join their lists."""
    entries: dict[str, dict[str, None]] = {}
    none: dict[str, str] = {}
    for sentence in sentences:
        for binding in query(sentence.for_, facts, members, {}):
            text = sentence.text.format(list="{list}", **binding)
            shown = (sentence.show.format(**b) for b in query(sentence.list, facts, members, binding))
            entries.setdefault(text, {}).update(dict.fromkeys(shown))
            none[text] = none.get(text) or sentence.none.format(**binding)
    filled = (text.format(list=enumeration([*shown])) if shown else none[text] for text, shown in entries.items())
    return " ".join(filter(None, filled))
