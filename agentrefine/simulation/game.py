"""Writes games: an expert plays by what it has read, and errs on purpose where a mistake is put in."""

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from itertools import pairwise, takewhile
from random import Random
from typing import Any, NamedTuple

from agentrefine.game.trajectory import DMTurn, PlayerTurn, error_refine_turns
from agentrefine.worlds.engine import MISTAKE_KINDS, Game, MistakeKind, Outcome
from agentrefine.worlds.facts import Move
from agentrefine.worlds.language import first_person, names_in, parameters
from agentrefine.worlds.layout import World, world_from_id
from agentrefine.worlds.player import Explorer, Mistake, Reason, mistakes
from agentrefine.worlds.thoughts import (
    after_error,
    drawn_thought,
    expert_thought,
    place_of,
    planned_thought,
    seen_from,
    thoughts,
)

SECOND_MISTAKE = 0.2
"""The chance that a mistake is followed by another one before the correction."""
MAX_RUN = 3
"""How many mistakes come in a row at most."""
MAX_FORESEEN = 5
"""How many of the expert's actions are ahead of which one may be taken too early."""
MAX_STEPS = 100
"""How many of the expert's actions a game has at most; a world that takes more counts as broken."""
OPENLY_MISTAKEN = 1 / 3
"""The share of the mistaken thoughts that say `I think`; the others are phrased as right ones are."""

world_of = lru_cache(maxsize=2048)(world_from_id)
"""The world of an id; those asked for lately are kept, since drawing one takes a while."""


class ExpertStep(NamedTuple):
    """One action of the expert: the game before it, why it is taken, what comes of it."""

    before: Game
    reason: Reason
    outcome: Outcome


def write_game(
    world: World, kept: Sequence[DMTurn | PlayerTurn], mistakes: tuple[int, int], rng: Random
) -> list[dict[str, Any]]:
    """The turns of a game, or those that come after the turns that are kept.

    Mistakes change nothing in a world, so the expert plays first and the mistakes are put in then.

    Args:
        world: where the game is played.
        kept: the turns that stand already, ending with the DM; empty for a whole game.
        mistakes: how many mistakes the whole game holds, at least and at most; a run of mistakes before one
            correction counts once.
        rng: chooses phrasings, mistakes and their places.

    Returns turns in the form of the trajectory prompt, as plain dictionaries.
    """
    game = Game(world)
    writer = _Writer(game, len(kept), rng)
    if not kept:
        writer.first(game.first_observation())
    for turn in kept:
        writer.read(turn.observation if isinstance(turn, DMTurn) else turn.action)
        if isinstance(turn, PlayerTurn):
            refusal = game.refusal(turn.action)
            writer.last_refusal = first_person(refusal.message) if refusal else ""
            if game.step(turn.action).error is None:
                writer.done.append(turn.action)
    # The steps of the whole game hold where the player has followed them so far.
    whole, done = _steps_from_start(world.id), len(writer.done)
    followed = writer.done == [step.reason.action for step in whole[:done]]
    steps = whole[done:] if followed else _expert_steps(game)
    wanted = rng.randint(*mistakes) - error_refine_turns(kept) - bool(writer.last_refusal)
    places = _spread(len(steps), wanted, rng)
    kinds = rng.sample(MISTAKE_KINDS, len(MISTAKE_KINDS))
    for number, step in enumerate(steps):
        if number in places:
            # Every game begins with another kind and goes through all of them.
            kinds = [*kinds[1:], kinds[0]]
            # The player foresees the actions that rest on what it knows now.
            planned = takewhile(lambda step: step.reason.kind == "plan", steps[number : number + MAX_FORESEEN])
            ahead = [step.reason.action for step in planned][1:]
            writer.err(step, ahead, tuple(kinds))
        writer.act(step)
    return writer.turns


class _Writer:
    """The turns written so far, and what the player has read."""

    def __init__(self, game: Game, turns_before: int, rng: Random) -> None:
        self.turns: list[dict[str, Any]] = []
        self.done: list[str] = []
        self.last_refusal = ""
        self._number = turns_before
        self._rng = rng
        self._objects = tuple(game.world.objects)
        self._known = set(names_in(game.world.goal, self._objects))
        self._in_sight: frozenset[str] = frozenset()

    def first(self, observation: str) -> None:
        self._say(observation, self._rng.choice(thoughts()["dm"]["first"]), Outcome(observation, None, False))

    def read(self, text: str) -> None:
        """The player has seen a text."""
        self._in_sight = frozenset(names_in(text, self._objects))
        self._known |= self._in_sight

    def act(self, step: ExpertStep) -> None:
        reason = step.reason
        self._play(expert_thought(step.before, reason, self.last_refusal, self._rng), reason.action)
        texts = thoughts()["dm"]
        template = self._rng.choice(texts["completed" if step.outcome.completed else "done"])
        self._say(step.outcome.observation, template.format(action=reason.says), step.outcome)
        self.done.append(reason.action)
        self.last_refusal = ""

    def err(self, step: ExpertStep, ahead: list[str], kinds: tuple[MistakeKind, ...]) -> None:
        """One mistake, or a few in a row, just before the expert's action."""
        tried: set[str] = set()
        while len(tried) < MAX_RUN and (not tried or self._rng.random() < SECOND_MISTAKE):
            mistake = self._find_mistake(step, ahead, kinds, tried)
            if mistake is None:
                return
            tried.add(mistake.action)
            self._mistake(step, mistake)
            kinds = (*kinds[1:], kinds[0])

    def _find_mistake(
        self, step: ExpertStep, ahead: list[str], kinds: tuple[MistakeKind, ...], avoid: set[str]
    ) -> Mistake | None:
        """A mistake of the first kind for which there is one; `avoid` are actions not to be used."""
        # The objects that the player is concerned with: what it does, what for, and what it looks for.
        reason = step.reason
        texts = (reason.move.text, reason.next_move.text, reason.sub_goal, reason.looked_for)
        concerned = set(names_in(" ".join(texts), self._objects))
        for kind in kinds:
            found = [mistake for mistake in mistakes(step.before, kind) if mistake.action not in avoid]
            if kind == "parameter_error":
                groups = self._about_commands(step, found, concerned)
            else:
                groups = self._about_the_world(step, found, concerned, ahead)
            groups = [group for group in groups if group]
            if groups:
                return self._rng.choice(self._rng.choice(groups))
        return None

    def _about_the_world(
        self, step: ExpertStep, found: list[Mistake], concerned: set[str], ahead: list[str]
    ) -> list[list[Mistake]]:
        """Groups of what suggests itself: too early, with what is in sight, once more; else with what is of concern."""
        predicates = step.before.world.rules.predicates
        hidden = [predicates[fact[0]].text(fact) for fact in step.before.state - step.before.known]
        # A player cannot name what it has not read of, and an error must not reveal what is yet to be found out.
        fair = [
            mistake
            for mistake in found
            if self._names(mistake.move) <= self._known and not any(fact in mistake.error_message for fact in hidden)
        ]
        about_concerns = [mistake for mistake in fair if self._names(mistake.move) & concerned]
        groups = [
            [mistake for mistake in fair if mistake.action in ahead],
            [mistake for mistake in about_concerns if self._names(mistake.move) <= self._in_sight],
            [mistake for mistake in fair if mistake.action in self.done[-3:]],
        ]
        return groups if any(groups) else [about_concerns]

    def _about_commands(self, step: ExpertStep, found: list[Mistake], concerned: set[str]) -> list[list[Mistake]]:
        """Another verb for what the player is concerned with, a wrong name in the right action, or a part of it."""
        right, actions = step.reason.move, step.before.world.rules.actions
        verbs = [m for m in found if m.move.template not in actions and self._names(m.move) <= concerned]
        wrong_names = [
            m
            for m in found
            if m.move.template == right.template and len(m.move.binding.items() - right.binding.items()) == 1
        ]
        return [verbs, wrong_names, _without_end(step)]

    def _names(self, move: Move) -> set[str]:
        """The objects of an action; what names none is left out."""
        return {name for name in move.binding.values() if name in self._objects}

    def _mistake(self, step: ExpertStep, mistake: Mistake) -> None:
        outcome = copy(step.before).step(mistake.action)
        sub_goal, belief = step.reason.sub_goal, seen_from(place_of(step.before), mistake.belief)
        if self._rng.random() < OPENLY_MISTAKEN:
            thought = drawn_thought("mistaken", self._rng, sub_goal=sub_goal, belief=belief, action=mistake.says)
        else:
            thought = planned_thought(sub_goal, [belief], mistake.says, self._rng)
        self._play(thought, mistake.action)
        self._say(outcome.observation, self._rng.choice(thoughts()["dm"]["error"]).format(belief=belief), outcome)
        self.last_refusal = first_person(mistake.error_message)

    def _play(self, thought: str, action: str) -> None:
        self._number += 1
        if self.last_refusal:
            thought = after_error(thought, self.last_refusal, self._rng)
        self.turns.append({"turn": self._number, "role": "Player", "thought": thought, "action": action})

    def _say(self, observation: str, thought: str, outcome: Outcome) -> None:
        self._number += 1
        self.read(observation)
        turn = {"turn": self._number, "role": "DM", "thought": thought, "observation": observation}
        flags = {kind: outcome.error == kind for kind in MISTAKE_KINDS}
        self.turns.append(turn | flags | {"task_completed": outcome.completed})


@lru_cache(maxsize=2048)
def _steps_from_start(world_id: str) -> list[ExpertStep]:
    return _expert_steps(Game(world_of(world_id)))


def _expert_steps(game: Game) -> list[ExpertStep]:
    explorer = Explorer(game)
    steps: list[ExpertStep] = []
    while not game.completed and len(steps) < MAX_STEPS:
        action = explorer.next_action()
        assert explorer.reason is not None
        steps.append(ExpertStep(copy(game), explorer.reason, game.step(action)))
    return steps


def _spread(length: int, wanted: int, rng: Random) -> set[int]:
    """`wanted` of `length` places, one in each stretch of about equal length."""
    count = max(0, min(wanted, length))
    ends = [length * part // count for part in range(count + 1)] if count else [0]
    return {rng.randrange(start, end) for start, end in pairwise(ends)}


def _without_end(step: ExpertStep) -> list[Mistake]:
    """`take apple` for `take apple from barn`."""
    right = step.reason.move
    if len(right.binding) < 2:
        return []
    first = parameters(right.template)[0]
    short = Move(_up_to(right.template, first), {first: right.binding[first]})
    refusal = step.before.read(short.text)
    if isinstance(refusal, Move):
        return []
    said = _up_to(step.before.world.rules.actions[right.template].says, first).format(**short.binding)
    return [Mistake(short.text, refusal.error, short, said, thoughts()["short_command"], refusal.message)]


def _up_to(template: str, name: str) -> str:
    """A template up to a placeholder."""
    hole = "{" + name + "}"
    return template[: template.index(hole) + len(hole)]
