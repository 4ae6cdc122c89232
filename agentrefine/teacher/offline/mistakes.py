"""Which mistake a player of the offline teacher makes: one that suggests itself where it is made."""

from collections.abc import Collection, Iterator
from random import Random
from typing import NamedTuple

from agentrefine.teacher.offline.thoughts import thoughts
from agentrefine.worlds.engine import Game, MistakeKind, Refusal
from agentrefine.worlds.family import Move, parameters
from agentrefine.worlds.language import first_person
from agentrefine.worlds.mistakes import Mistake, mistakes

KINDS: tuple[MistakeKind, ...] = ("parameter_error", "logic_error", "place_error")


class Situation(NamedTuple):
    """Where a mistake is to be made.

    Attributes:
        game: the game just before it.
        focus: the objects that the player is concerned with now.
        known: the names that the player has read so far, those of the goal included.
        sight: the names in the last observation.
        right: the action that is right now.
        ahead: the right actions after it, as far as the player can foresee them.
        behind: actions that the player has done.
    """

    game: Game
    focus: Collection[str]
    known: Collection[str]
    sight: Collection[str]
    right: Move
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
    """What the player says of a mistake afterwards: its error, as a clause."""
    return first_person(mistake.error_message)


def cited_from(game: Game, action: str) -> str:
    """What the player says of an action that the world refuses, as a clause; empty when it can be done."""
    move = game.read(action)
    refusal = game.judge(move) if isinstance(move, Move) else move
    return first_person(refusal.message) if isinstance(refusal, Refusal) else ""


def _about_the_world(situation: Situation, found: list[Mistake]) -> list[list[Mistake]]:
    """Groups of what suggests itself: too early, with what is in sight, again; else with what is of concern."""
    hidden = _hidden(situation.game)
    # A player cannot name what it has not read of, and an error must not tell what is yet to be found out.
    fair = [
        mistake
        for mistake in found
        if all(name in situation.known for name in _names(situation, mistake.move))
        and not any(fact in mistake.error_message for fact in hidden)
    ]
    concerned = [m for m in fair if any(name in situation.focus for name in _names(situation, m.move))]
    too_early = [m for m in fair if m.action in situation.ahead]
    in_sight = [m for m in concerned if all(n in situation.sight for n in _names(situation, m.move))]
    again = [m for m in fair if m.action in situation.behind[-3:]]
    return [too_early, in_sight, again] if too_early or in_sight or again else [concerned]


def _about_commands(situation: Situation, found: list[Mistake]) -> list[list[Mistake]]:
    """Another verb for what the player is concerned with, a wrong name in the right action, or a part of it."""
    right = situation.right
    verbs, wrong_names = [], []
    for mistake in found:
        if mistake.move.template not in situation.game.world.rules.actions:
            if all(name in situation.focus for name in _names(situation, mistake.move)):
                verbs.append(mistake)
        elif mistake.move.template == right.template and len(mistake.move.binding.items() - right.binding.items()) == 1:
            wrong_names.append(mistake)
    return [verbs, wrong_names, list(_without_end(situation))]


def _without_end(situation: Situation) -> Iterator[Mistake]:
    """`take apple` for `take apple from barn`."""
    right = situation.right
    if len(right.binding) < 2:
        return
    first = parameters(right.template)[0]
    says = situation.game.world.rules.actions[right.template].says
    short = Move(_up_to(right.template, first), {first: right.binding[first]})
    refusal = situation.game.read(short.text)
    if isinstance(refusal, Refusal):
        said = _up_to(says, first).format(**short.binding)
        belief = thoughts().short_command
        yield Mistake(short.text, refusal.error, short, said, belief, refusal.message, relevant=True)


def _up_to(template: str, name: str) -> str:
    """A template up to a placeholder."""
    hole = "{" + name + "}"
    return template[: template.index(hole) + len(hole)]


def _names(situation: Situation, move: Move) -> list[str]:
    objects = situation.game.world.objects
    return [name for name in move.binding.values() if name in objects]


def _hidden(game: Game) -> list[str]:
    predicates = game.world.rules.predicates
    return [predicates[fact[0]].text(fact) for fact in game.state - game.known]
