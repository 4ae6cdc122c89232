"""The mistakes that a player of the offline teacher makes: plausible where they happen, each with its wrong belief."""

from collections.abc import Collection, Iterator
from random import Random
from typing import NamedTuple

from agentrefine.teacher.offline.thoughts import thoughts
from agentrefine.worlds import catalogue
from agentrefine.worlds.engine import Game, MistakeKind, Move, Refusal
from agentrefine.worlds.facts import type_of
from agentrefine.worlds.family import parameters
from agentrefine.worlds.player import first_person

KINDS: tuple[MistakeKind, ...] = ("parameter_error", "logic_error", "place_error")
TRIED = 24
"""How many actions are tried for a mistake of one kind before another kind is taken."""


class Mistake(NamedTuple):
    """A mistaken action.

    Attributes:
        action: what the player does.
        belief: the wrong belief behind it, as the player would say it.
        cited: what is said of it afterwards.
        kind: how the world judges it.
    """

    action: str
    belief: str
    cited: str
    kind: MistakeKind


class Situation(NamedTuple):
    """Where a mistake is to be made.

    Attributes:
        game: the game just before it.
        focus: the objects that the player is concerned with now.
        known: the words that the player has read so far, those of the goal included.
        sight: the words of the last observation.
        right: the action that is right now.
        ahead: the right actions after it, as far as the player can foresee them.
        behind: actions that the player has done.
    """

    game: Game
    focus: Collection[str]
    known: Collection[str]
    sight: Collection[str]
    right: str
    ahead: list[str]
    behind: list[str]


def find_mistake(situation: Situation, kinds: tuple[MistakeKind, ...], avoid: set[str], draw: Random) -> Mistake | None:
    """A mistake of the first kind for which the situation offers one; `avoid` are actions not to be used."""
    for kind in kinds:
        mistakes = _of_the_command(situation, draw) if kind == "parameter_error" else _of_the_world(situation, draw)
        for mistake in mistakes:
            if mistake.kind == kind and mistake.action not in avoid and mistake.action != situation.right:
                return mistake
    return None


def cited(refusal: Refusal) -> str:
    """An error as the player repeats it: of two sentences the last, which says why the action is not known."""
    return first_person(refusal.message.split(" . ")[-1])


def _of_the_world(situation: Situation, draw: Random) -> Iterator[Mistake]:
    """Known actions that are senseless now or concern what is elsewhere."""
    hidden = _hidden(situation.game)
    for action in _tempting(situation, draw):
        move = situation.game.read(action)
        refusal = move if isinstance(move, Refusal) else situation.game.judge(move)
        if not isinstance(refusal, Refusal) or not refusal.belief or refusal.error == "parameter_error":
            continue
        # An error must not tell what the player has yet to find out.
        if not any(fact in refusal.message for fact in hidden):
            yield Mistake(action, first_person(refusal.belief), cited(refusal), refusal.error)


def _tempting(situation: Situation, draw: Random) -> Iterator[str]:
    """Actions in the order in which they suggest themselves: too early, with what is in sight, with what is known."""
    yield from draw.sample(situation.ahead, len(situation.ahead))
    moves = [move for move in situation.game.moves() if _concerns(move, situation)]
    near = [move for move in moves if all(value in situation.sight for value in move.binding.values())]
    yield from (situation.game.render(move) for move in draw.sample(near, min(TRIED, len(near))))
    again = situation.behind[-3:]
    yield from draw.sample(again, len(again))
    yield from (situation.game.render(move) for move in draw.sample(moves, min(TRIED, len(moves))))


def _concerns(move: Move, situation: Situation) -> bool:
    values = move.binding.values()
    return any(value in situation.focus for value in values) and all(value in situation.known for value in values)


def _hidden(game: Game) -> list[str]:
    predicates = game.world.rules.predicates
    return [predicates[fact[0]].text(fact) for fact in game.state - game.known]


def _of_the_command(situation: Situation, draw: Random) -> Iterator[Mistake]:
    """Actions that no world knows: another verb, a command without its end, a name of the wrong type."""
    actions = [*_other_verbs(situation), *_without_end(situation), *_wrong_names(situation, draw)]
    for action, belief, cited in draw.sample(actions, len(actions)):
        refusal = situation.game.read(action)
        if isinstance(refusal, Refusal):
            yield Mistake(action, belief, cited, refusal.error)


def _other_verbs(situation: Situation) -> Iterator[tuple[str, str, str]]:
    members = situation.game.world.members
    for template in catalogue.texts()["unknown_verbs"]:
        names = parameters(template)
        command = template.split(" {")[0]
        if not names:
            yield template, *_belief_in(command)
        for value in situation.focus:
            if names and value in members.get(type_of(names[0]), ()):
                yield template.format(**{names[0]: value}), *_belief_in(command)


def _without_end(situation: Situation) -> Iterator[tuple[str, str, str]]:
    """`take apple` for `take apple from barn`."""
    move = situation.game.read(situation.right)
    if isinstance(move, Move) and len(move.binding) > 1:
        words = situation.right.split()
        last = list(move.binding.values())[-1]
        preposition = words.index(last) - 1
        command = " ".join(words[:preposition] if preposition > 1 else words[:-1])
        yield command, *_belief_in(command)


def _wrong_names(situation: Situation, draw: Random) -> Iterator[tuple[str, str, str]]:
    """The right action with the name of something of another type, or of something that this world does not have."""
    move = situation.game.read(situation.right)
    if isinstance(move, Refusal):
        return
    world = situation.game.world
    absent = [
        noun for pool in catalogue.theme(world.theme).nouns.values() for noun in pool if noun not in world.objects
    ]
    present = [name for name in world.objects if name in situation.known]
    for name, value in move.binding.items():
        strange = [other for other in present if other not in world.members[type_of(name)]]
        for pool in (strange, absent):
            if not pool:
                continue
            other = draw.choice(pool)
            action = situation.game.render(Move(move.template, {**move.binding, name: other}))
            refusal = situation.game.read(action)
            if isinstance(refusal, Refusal) and value != other and refusal.belief:
                yield action, refusal.belief, cited(refusal)


def _belief_in(command: str) -> tuple[str, str]:
    texts = thoughts()
    return texts.unknown_command.format(command=command), texts.unknown_command_cited.format(command=command)
