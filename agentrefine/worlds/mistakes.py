"""Mistaken actions that a player could take now, with the wrong belief behind each."""

from collections.abc import Iterator
from typing import NamedTuple

from agentrefine.worlds import catalogue
from agentrefine.worlds.engine import Game, MistakeKind, Refusal
from agentrefine.worlds.family import Move, first_person, parameters, type_of


class Mistake(NamedTuple):
    """An action that the world refuses.

    Attributes:
        action: in the game's paraphrase.
        kind: the error that it raises.
        move: its template and the names that fill it; an unknown verb has a template of its own.
        says: the action as a sentence says it, such as `take the apple from the barn`.
        belief: the wrong belief behind it, as a clause in the first person, such as `the apple is in the barn` or
            `I hold the apple`.
        error_message: the clause by which the observation will refuse it, such as `the apple is not in the barn`.
        relevant: it concerns an object of a goal condition that is still open.
    """

    action: str
    kind: MistakeKind
    move: Move
    says: str
    belief: str
    error_message: str
    relevant: bool


def mistakes(game: Game, kind: MistakeKind) -> list[Mistake]:
    """The mistaken actions of a kind that are possible now, in a fixed order; none changes the game.

    Logic and place errors are known actions with known values; parameter errors have an unknown verb, or a value that
    the theme knows but the action does not. Their beliefs rest on what is false in the hidden state.
    """
    wanted = {name for c in game.world.conditions if c.fact not in game.state for name in c.fact[1:]}
    found = _parameter_errors(game, wanted) if kind == "parameter_error" else _refused(game, kind, wanted)
    return list({mistake.action: mistake for mistake in found}.values())


def _refused(game: Game, kind: MistakeKind, wanted: set[str]) -> Iterator[Mistake]:
    for move in game.moves():
        refusal = game.judge(move)
        if isinstance(refusal, Refusal) and refusal.error == kind and refusal.belief:
            yield _mistake(game, move, refusal, not wanted.isdisjoint(move.binding.values()))


def _mistake(game: Game, move: Move, refusal: Refusal, relevant: bool) -> Mistake:
    says = game.world.rules.actions[move.template].says.format(**move.binding)
    belief = first_person(refusal.belief)
    return Mistake(game.render(move), refusal.error, move, says, belief, refusal.message, relevant)


def _parameter_errors(game: Game, wanted: set[str]) -> Iterator[Mistake]:
    texts = catalogue.texts()
    for template, says in texts["unknown_verbs"].items():
        names = parameters(template)
        bindings = [{name: value} for name in names for value in game.world.members.get(type_of(name), ())]
        for binding in bindings if names else [{}]:
            move = Move(template, binding)
            refusal = game.read(move.text)
            if isinstance(refusal, Refusal):
                said, relevant = says.format(**binding), not wanted.isdisjoint(binding.values())
                belief = texts["belief_verb"]
                yield Mistake(move.text, "parameter_error", move, said, belief, refusal.message, relevant)
    for move in game.moves():
        if isinstance(game.judge(move), Refusal):
            continue
        for name, value in _strangers(game, move):
            wrong = Move(move.template, {**move.binding, name: value})
            refusal = game.read(game.render(wrong))
            if isinstance(refusal, Refusal):
                yield _mistake(game, wrong, refusal, not wanted.isdisjoint({*move.binding.values(), value}))


def _strangers(game: Game, move: Move) -> Iterator[tuple[str, str]]:
    """Values that a parameter of a possible action does not take: other objects here, and nouns of the theme."""
    nouns, rules = catalogue.theme(game.world.theme).nouns, game.world.rules
    for name in move.binding:
        valid = game.world.members[type_of(name)]
        pools = {rules.objects[leaf].pool for leaf in rules.leaves(type_of(name)) if leaf in rules.objects}
        others = [noun for pool in sorted(pools) for noun in nouns[pool]]
        yield from ((name, value) for value in (*game.world.objects, *others) if value not in valid)
