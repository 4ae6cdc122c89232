"""Writes games: an expert plays by what it has read, and errs on purpose where a mistake is put in."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import pairwise, takewhile
from random import Random
from typing import Any, NamedTuple

from agentrefine.game.trajectory import DMTurn, PlayerTurn, error_refine_turns
from agentrefine.simulation.requests import world_of
from agentrefine.simulation.thoughts import filled, mistaken_thought, planned_thought, thoughts
from agentrefine.worlds.engine import MISTAKE_KINDS, Game, MistakeKind, Outcome, Refusal
from agentrefine.worlds.family import Move, enumeration, first_person, names_in, parameters
from agentrefine.worlds.layout import World
from agentrefine.worlds.player import Explorer, Mistake, Reason, mistakes

AGAIN = 0.2
"""The chance that a mistake is followed by another one before the correction."""
MAX_RUN = 3
"""How many mistakes come in a row at most."""
FORESEEN = 5
"""How many of the expert's actions are ahead of which one may be taken too early."""
MAX_PLAY = 100
"""How many of the expert's actions a game has at most; a world that takes more counts as broken."""


class ExpertStep(NamedTuple):
    """One action of the expert: the game before it, why it is taken, what comes of it."""

    before: Game
    reason: Reason
    outcome: Outcome


def write_game(
    world: World, kept: Sequence[DMTurn | PlayerTurn], mistakes: tuple[int, int], rng: Random
) -> list[dict[str, Any]]:
    """The turns of a game, or those that come after the turns that are kept.

    Mistakes change nothing in a world, so the expert's way is found first and the mistakes are put in then.

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
            writer.last_refusal = _refusal_in_first_person(game, turn.action)
            if game.step(turn.action).error is None:
                writer.done.append(turn.action)
    steps = _steps_from(game, writer.done)
    wanted = rng.randint(*mistakes) - error_refine_turns(kept) - bool(writer.last_refusal)
    places = _spread(len(steps), wanted, rng)
    kinds = rng.sample(MISTAKE_KINDS, len(MISTAKE_KINDS))
    for number, step in enumerate(steps):
        if number in places:
            # Every game begins with another kind and goes through all of them.
            kinds = [*kinds[1:], kinds[0]]
            # The player foresees the actions that rest on what it knows now.
            planned = takewhile(lambda step: step.reason.kind == "plan", steps[number : number + FORESEEN])
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
        self._places = frozenset(game.world.members.get("place", ()))
        self._objects = tuple(game.world.objects)
        self._known = set(names_in(game.world.goal, self._objects))
        self._sight: frozenset[str] = frozenset()

    def first(self, observation: str) -> None:
        """The game begins."""
        self._say(observation, self._rng.choice(thoughts().dm["first"]), Outcome(observation, None, False))

    def read(self, text: str) -> None:
        """The player has seen a text."""
        self._sight = frozenset(names_in(text, self._objects))
        self._known |= self._sight

    def act(self, step: ExpertStep) -> None:
        """The expert's own action."""
        reason = step.reason
        self._play(self._thought(step), reason.action)
        texts = thoughts().dm
        template = self._rng.choice(texts["completed" if step.outcome.completed else "done"])
        self._say(step.outcome.observation, template.format(action=reason.says), step.outcome)
        self.done.append(reason.action)
        self.last_refusal = ""

    def _thought(self, step: ExpertStep) -> str:
        reason, facts = step.reason, self._facts(step.reason, _place(step.before))
        if reason.kind == "plan":
            return planned_thought(reason.sub_goal, facts, reason.says, self._rng)
        texts, sought = thoughts(), reason.looked_for
        known = enumeration(facts) if facts else ""
        if reason.kind_looked_for:
            templates, sought = texts.explore_for_kind, texts.kinds[reason.kind_looked_for]
        elif reason.target in self._places:
            templates = texts.explore_place
        else:
            templates = texts.explore_container_by if facts else texts.explore_container
        holes = {"sub_goal": reason.sub_goal, "sought": sought, "target": reason.target, "action": reason.says}
        return filled(templates, self._rng, facts=known, **holes)

    def err(self, step: ExpertStep, ahead: list[str], kinds: tuple[MistakeKind, ...]) -> None:
        """One mistake, or a few in a row, just before the expert's action."""
        # The objects that the player is concerned with: what it does, what for, and what it looks for.
        reason = step.reason
        texts = (reason.move.text, reason.next_move.text, reason.sub_goal, reason.looked_for)
        concerned = names_in(" ".join(texts), self._objects)
        focus = [name for name in self._objects if name in concerned]
        tried: set[str] = set()
        while len(tried) < MAX_RUN and (not tried or self._rng.random() < AGAIN):
            situation = Situation(step.before, focus, self._known, self._sight, step.reason.move, ahead, self.done)
            mistake = _find_mistake(situation, kinds, tried, self._rng)
            if mistake is None:
                return
            tried.add(mistake.action)
            self._mistake(step, mistake)
            kinds = (*kinds[1:], kinds[0])

    def _mistake(self, step: ExpertStep, mistake: Mistake) -> None:
        outcome = step.before.copy().step(mistake.action)
        belief = _seen_from(_place(step.before), mistake.belief)
        self._play(mistaken_thought(step.reason.sub_goal, belief, mistake.says, self._rng), mistake.action)
        self._say(outcome.observation, self._rng.choice(thoughts().dm["error"]).format(belief=belief), outcome)
        self.last_refusal = first_person(mistake.error_message)

    def _facts(self, reason: Reason, place: str) -> list[str]:
        # Places are always open: that they are is no reason for anything.
        trivial = {f"the {place} is open" for place in self._places}
        facts = [fact for fact in reason.facts if fact not in trivial and fact not in self.last_refusal]
        return [_seen_from(place, fact) for fact in facts]

    def _play(self, thought: str, action: str) -> None:
        self._number += 1
        if self.last_refusal:
            thought = filled(thoughts().after_error, self._rng, cited=self.last_refusal, thought=thought)
        self.turns.append({"turn": self._number, "role": "Player", "thought": thought, "action": action})

    def _say(self, observation: str, thought: str, outcome: Outcome) -> None:
        self._number += 1
        self.read(observation)
        turn = {"turn": self._number, "role": "DM", "thought": thought, "observation": observation}
        flags = {kind: outcome.error == kind for kind in MISTAKE_KINDS}
        self.turns.append(turn | flags | {"task_completed": outcome.completed})


def _place(game: Game) -> str:
    """Where the player is."""
    return next(fact[1] for fact in game.state if fact[0] == "at")


def _seen_from(place: str, fact: str) -> str:
    """`the apple is here` instead of `the apple is in the barn` for a player in the barn."""
    elsewhere = f" is in the {place}"
    return f"{fact.removesuffix(elsewhere)} is here" if fact.endswith(elsewhere) else fact


def _steps_from(game: Game, done: list[str]) -> list[ExpertStep]:
    """The expert's steps from here on; those of the whole game where the player has followed them so far."""
    whole = _steps_from_start(game.world.id)
    if done == [step.reason.action for step in whole[: len(done)]]:
        return whole[len(done) :]
    return _expert_steps(game)


@lru_cache(maxsize=2048)
def _steps_from_start(world_id: str) -> list[ExpertStep]:
    return _expert_steps(Game(world_of(world_id)))


def _expert_steps(game: Game) -> list[ExpertStep]:
    explorer = Explorer(game)
    steps: list[ExpertStep] = []
    while not game.completed and len(steps) < MAX_PLAY:
        action = explorer.next_action()
        assert explorer.reason is not None
        steps.append(ExpertStep(game.copy(), explorer.reason, game.step(action)))
    return steps


def _spread(length: int, wanted: int, rng: Random) -> set[int]:
    """`wanted` of `length` places, one in each stretch of about equal length."""
    count = max(0, min(wanted, length))
    ends = [length * part // count for part in range(count + 1)] if count else [0]
    return {rng.randrange(start, end) for start, end in pairwise(ends)}


class Situation(NamedTuple):
    """Where a mistake is to be made.

    Attributes:
        game: the game just before it.
        focus: the objects that the player is concerned with now.
        known, sight: the names that the player has read so far, in the goal too, and those in the last observation.
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


def _find_mistake(situation: Situation, kinds: tuple[MistakeKind, ...], avoid: set[str], rng: Random) -> Mistake | None:
    """A mistake of the first kind for which the situation offers one; `avoid` are actions not to be used."""
    for kind in kinds:
        of_kind = [m for m in mistakes(situation.game, kind) if m.action not in avoid]
        if kind == "parameter_error":
            offered = _about_commands(situation, of_kind)
        else:
            offered = _about_the_world(situation, of_kind)
        groups = [group for group in offered if group]
        if groups:
            return rng.choice(rng.choice(groups))
    return None


def _refusal_in_first_person(game: Game, action: str) -> str:
    """What the player says of an action that the world refuses, as a clause; empty when it can be done."""
    move = game.read(action)
    refusal = game.judge(move) if isinstance(move, Move) else move
    return first_person(refusal.message) if isinstance(refusal, Refusal) else ""


def _about_the_world(situation: Situation, found: list[Mistake]) -> list[list[Mistake]]:
    """Groups of what suggests itself: too early, with what is in sight, again; else with what is of concern."""
    predicates = situation.game.world.rules.predicates
    hidden = [predicates[fact[0]].text(fact) for fact in situation.game.state - situation.game.known]
    # A player cannot name what it has not read of, and an error must not reveal what is yet to be found out.
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
    right, actions = situation.right, situation.game.world.rules.actions
    verbs = [
        m
        for m in found
        if m.move.template not in actions and all(name in situation.focus for name in _names(situation, m.move))
    ]
    wrong_names = [
        m
        for m in found
        if m.move.template == right.template and len(m.move.binding.items() - right.binding.items()) == 1
    ]
    return [verbs, wrong_names, _without_end(situation)]


def _without_end(situation: Situation) -> list[Mistake]:
    """`take apple` for `take apple from barn`."""
    right = situation.right
    if len(right.binding) < 2:
        return []
    first = parameters(right.template)[0]
    says = situation.game.world.rules.actions[right.template].says
    short = Move(_up_to(right.template, first), {first: right.binding[first]})
    refusal = situation.game.read(short.text)
    if isinstance(refusal, Move):
        return []
    said, belief = _up_to(says, first).format(**short.binding), thoughts().short_command
    return [Mistake(short.text, refusal.error, short, said, belief, refusal.message)]


def _up_to(template: str, name: str) -> str:
    """A template up to a placeholder."""
    hole = "{" + name + "}"
    return template[: template.index(hole) + len(hole)]


def _names(situation: Situation, move: Move) -> list[str]:
    objects = situation.game.world.objects
    return [name for name in move.binding.values() if name in objects]
