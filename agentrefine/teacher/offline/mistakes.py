"""Which mistake a player of the offline teacher makes: one that suggests itself where it is made."""

from collections.abc import Collection, Iterator
from random import Random
from typing import NamedTuple

from agentrefine.teacher.offline.thoughts import thoughts
from agentrefine.worlds.engine import Game, MistakeKind, Move, Refusal
from agentrefine.worlds.mistakes import Mistake, mistakes
from agentrefine.worlds.player import first_person

KINDS: tuple[MistakeKind, ...] = ("parameter_error", "logic_error", "place_error")


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
        of_kind = [m for m in mistakes(situation.game, kind) if m.action not in avoid]
        if kind == "parameter_error":
            offered = _about_commands(situation, of_kind)
        else:
            offered = _about_the_world(situation, of_kind)
        groups = [group for group in offered if group]
        if groups:
            return draw.choice(draw.choice(groups))
    return None


def cited(mistake: Mistake) -> str:
    """What is said of a mistake afterwards: its error, or what is not known in its command."""
    if mistake.kind == "parameter_error":
        return mistake.belief.replace(" is a known ", " is not a known ") + " ."
    return first_person(mistake.error_message)


def cited_from(game: Game, action: str) -> str:
    """What the world says first to an action that it refuses; empty when it can be done."""
    move = game.read(action)
    refusal = game.judge(move) if isinstance(move, Move) else move
    # Of two sentences the last says why the action is not known.
    return first_person(refusal.message.split(" . ")[-1]) if isinstance(refusal, Refusal) else ""


def _about_the_world(situation: Situation, found: list[Mistake]) -> list[list[Mistake]]:
    """Groups of what suggests itself: too early, with what is in sight, again; else with what is of concern."""
    hidden = _hidden(situation.game)
    # A player cannot name what it has not read of, and an error must not tell what is yet to be found out.
    fair = [
        mistake
        for mistake in found
        if all(name in situation.known for name in _names(situation, mistake.action))
        and not any(fact in mistake.error_message for fact in hidden)
    ]
    concerned = [m for m in fair if any(name in situation.focus for name in _names(situation, m.action))]
    too_early = [m for m in fair if m.action in situation.ahead]
    in_sight = [m for m in concerned if all(n in situation.sight for n in _names(situation, m.action))]
    again = [m for m in fair if m.action in situation.behind[-3:]]
    return [too_early, in_sight, again] if too_early or in_sight or again else [concerned]


def _about_commands(situation: Situation, found: list[Mistake]) -> list[list[Mistake]]:
    """Another verb for what the player is concerned with, a wrong name in the right action, or a part of it."""
    right = situation.right.split()
    verbs, wrong_names = [], []
    for mistake in found:
        words = mistake.action.split()
        if words[0] != right[0]:
            if all(word in situation.focus for word in _names(situation, mistake.action)):
                verbs.append(mistake)
        elif len(words) == len(right) and sum(a != b for a, b in zip(words, right, strict=True)) == 1:
            wrong_names.append(mistake)
    return [verbs, wrong_names, list(_without_end(situation))]


def _without_end(situation: Situation) -> Iterator[Mistake]:
    """`take apple` for `take apple from barn`."""
    names = _names(situation, situation.right)
    if len(names) < 2:
        return
    command = situation.right[: situation.right.index(names[0]) + len(names[0])]
    refusal = situation.game.read(command)
    if isinstance(refusal, Refusal):
        belief = thoughts().unknown_command.format(command=command)
        yield Mistake(command, refusal.error, belief, refusal.message, relevant=True)


def _names(situation: Situation, action: str) -> list[str]:
    objects = situation.game.world.objects
    return [word for word in action.split() if word in objects]


def _hidden(game: Game) -> list[str]:
    predicates = game.world.rules.predicates
    return [predicates[fact[0]].text(fact) for fact in game.state - game.known]
