"""How a world is played: an expert that acts on what the observations have shown, and mistakes that it could make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from agentrefine.worlds import catalogue
from agentrefine.worlds.engine import REQUIRED_TYPES, Game, MistakeKind, Refusal
from agentrefine.worlds.facts import Fact, Move, type_of
from agentrefine.worlds.language import first_person, names_in, parameters
from agentrefine.worlds.layout import GoalCondition
from agentrefine.worlds.planner import GroundAction, reachable, replay, search


class Reason(NamedTuple):
    """Why the expert takes an action; all texts are clauses in the first person, without the final full stop.

    Attributes:
        kind: `plan`: the known facts suffice; `explore`: something is still to be found.
        sub_goal: the condition of the goal that is worked at, in the goal's words, such as `put the cup in the barn`.
        move: the action itself.
        action: the same as the player writes it, in the game's paraphrase.
        says: the same as a sentence says it, such as `go to the barn`.
        next_move: the next action that does more than bring the player elsewhere; the action itself if it does.
        facts: known facts that allow `next_move`, such as `the cup is in the barn`; while exploring often empty.
        looked_for: while exploring, the object whose whereabouts are not known; empty otherwise, and where the player
            has not read of it.
        kind_looked_for: the type of an object that is looked for and that the player has not read of, such as `tool`.
        target: while exploring, the place or container that the action leads to or opens; empty otherwise.
    """

    kind: Literal["plan", "explore"]
    sub_goal: str
    move: Move
    action: str
    says: str
    next_move: Move
    facts: tuple[str, ...]
    looked_for: str
    kind_looked_for: str
    target: str


class Explorer:
    """A player that knows no more than the observations have shown.

    It plans on known facts. Where no plan exists it opens a closed container, or visits the next place in the listed
    order (from where it is, the first after the last), until one does. Mistaken actions in between do not disturb it:
    it reads the game's known facts each time.

    `reason` is why the last action is taken.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.reason: Reason | None = None
        self._plan: list[GroundAction] = []
        self._aim = 0
        self._exploring = ""
        self._conditions: list[GoalCondition] = []

    def next_action(self) -> str:
        """The action to take now, in the game's paraphrase.

        Raises:
            RuntimeError: the game is completed, or its goal cannot be reached any more (what is needed was given away).
        """
        if self.game.completed:
            raise RuntimeError("the game is completed; there is no action to take")
        known = self.game.world.problem.mask(self.game.known)
        if self._exploring or not self._continue(known):
            self._replan(known)
        self.reason = self._reason(known)
        return self.reason.action

    def _replan(self, known: int) -> None:
        plan = self._plan_to_goal(known)
        if plan:
            self._plan, self._exploring = plan, ""
            self._aim = self.game.world.problem.mask(c.fact for c in self._conditions)
        elif not (self._exploring and self._continue(known)):
            self._plan, fact = self._exploration(known)
            self._aim, self._exploring = self.game.world.problem.mask([fact]), fact[1]

    def _continue(self, known: int) -> bool:
        """Whether the plan made before still leads to its aim; drops the action that has been done."""
        if not self._aim & ~known:
            return False
        for done in (0, 1):
            rest = [action.text for action in self._plan[done:]]
            replayed = replay(self.game.world.problem, rest, known, self._aim)
            if replayed:
                self._plan = replayed
                return True
        return False

    def _plan_to_goal(self, known: int) -> list[GroundAction]:
        """A plan for all parts of the goal that the known facts can fulfil; it keeps what is already fulfilled."""
        world = self.game.world
        possible = reachable(world.problem, known)
        open_parts = {c.part for c in world.conditions if world.problem.mask([c.fact]) & ~possible}
        self._conditions = [c for c in world.conditions if c.part not in open_parts]
        if all(c.fact in self.game.known for c in self._conditions):
            return []
        return search(world.problem, known, world.problem.mask(c.fact for c in self._conditions)) or []

    def _reason(self, known: int) -> Reason:
        """Why the plan's first action is taken."""
        rules, move = self.game.world.rules, self._plan[0].move
        ahead = next((action for action in self._plan if not action.travel), self._plan[0])
        facts = [fact for fact in ahead.requires if fact in self.game.known and rules.predicates[fact[0]].tell]
        if self._exploring:
            sub_goal = next(c for c in self.game.world.conditions if c.fact not in self.game.known)
            looked_for, kind_looked_for = self._looked_for(sub_goal, known)
        else:
            sub_goal, looked_for, kind_looked_for = self._sub_goal(ahead, known), "", ""
        return Reason(
            kind="explore" if self._exploring else "plan",
            sub_goal=sub_goal.text,
            move=move,
            action=self.game.render(move),
            says=rules.actions[move.template].says.format(**move.binding),
            next_move=ahead.move,
            facts=tuple(first_person(rules.predicates[fact[0]].text(fact)) for fact in facts),
            looked_for=looked_for,
            kind_looked_for=kind_looked_for,
            target=self._exploring,
        )

    def _sub_goal(self, ahead: GroundAction, state: int) -> GoalCondition:
        """The first condition that the plan fulfils and that concerns the objects of the action ahead."""
        bits = self.game.world.problem.bits
        missing = [c for c in self._conditions if c.fact not in self.game.known]
        reached: list[GoalCondition] = []
        for action in self._plan:
            state = action.apply(state)
            reached += [c for c in missing if bits[c.fact] & state and c not in reached]
        named = ahead.move.binding.values()
        return next((c for c in reached if not set(c.fact[1:]).isdisjoint(named)), reached[0])

    def _looked_for(self, missing: GoalCondition, known: int) -> tuple[str, str]:
        """The name of the object to find for a condition; or, where the player has not read of it, its type."""
        unreached = [c for c in self.game.world.conditions if c.part == missing.part]
        sought = [self._missing_object(c.fact, known) for c in unreached]
        name = next(filter(None, sought), "") or self._first_unseen(missing.fact)
        if name in names_in(self.game.world.goal, [name]) or any(name in fact for fact in self.game.ever_known):
            return name, ""
        return "", self.game.world.objects[name]

    def _exploration(self, known: int) -> tuple[list[GroundAction], Fact]:
        """The path to what has not been seen yet: open what is here, else what is known, else visit the next place."""
        problem = self.game.world.problem
        paths: list[tuple[list[GroundAction], Fact]] = []
        for fact in self.game.unexplored():
            bit = problem.mask([fact])
            direct = [a for a in problem.actions if a.adds & bit and a.applicable(known)][:1]
            if direct and not direct[0].travel:
                return direct, fact
            path = direct or search(problem, known, bit)
            if path:
                paths.append((path, fact))
        if not paths:
            raise RuntimeError(
                f"world {self.game.world.id} cannot be won any more: there is no plan and nothing left to explore"
            )
        return next((found for found in paths if len(found[0]) > 1), paths[0])

    def _missing_object(self, fact: Fact, known: int) -> str:
        """The object that has to be found before a fact can be reached, of a fact unknown so far."""
        problem = self.game.world.problem
        possible = reachable(problem, known)
        visited: set[Fact] = set()
        while problem.mask([fact]) & ~possible and fact not in visited:
            visited.add(fact)
            makers = [a for a in problem.actions if a.adds & problem.mask([fact])]
            lacking = [[f for f in a.requires if problem.bits[f] & ~possible] for a in makers]
            nearest = min((facts for facts in lacking if facts), key=len, default=[])
            if not nearest:
                break
            fact = nearest[0]
        if not visited:
            return ""
        # What is inside the other object, where the fact says so, else its first argument.
        predicate = self.game.world.rules.predicates[fact[0]]
        return fact[1 + predicate.of.index(predicate.nests[0] if predicate.nests else predicate.of[0])]

    def _first_unseen(self, fact: Fact) -> str:
        """A required object that was not seen, such as a tool for what is broken; else what the fact is about."""
        seen = {name for known in self.game.known for name in known[1:]}
        own = self.game.world.objects[fact[1]]
        required = [name for kind in REQUIRED_TYPES if kind != own for name in self.game.world.members.get(kind, ())]
        return next((name for name in (fact[1], *required) if name not in seen), fact[1])


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
    """

    action: str
    kind: MistakeKind
    move: Move
    says: str
    belief: str
    error_message: str


def mistakes(game: Game, kind: MistakeKind) -> list[Mistake]:
    """The mistaken actions of a kind that are possible now, in a fixed order; none changes the game.

    Logic and place errors are known actions with known values; parameter errors have an unknown verb, or a value that
    the theme knows but the action does not. Their beliefs rest on what is false in the hidden state.
    """
    if kind == "parameter_error":
        found = _parameter_errors(game)
    else:
        judged = ((move, game.judge(move)) for move in game.moves())
        refused = ((move, refusal) for move, refusal in judged if isinstance(refusal, Refusal) and refusal.belief)
        found = (_mistake(game, move, refusal) for move, refusal in refused if refusal.error == kind)
    return list({mistake.action: mistake for mistake in found}.values())


def _mistake(game: Game, move: Move, refusal: Refusal) -> Mistake:
    says = game.world.rules.actions[move.template].says.format(**move.binding)
    return Mistake(game.render(move), refusal.error, move, says, first_person(refusal.belief), refusal.message)


def _parameter_errors(game: Game) -> Iterator[Mistake]:
    texts = catalogue.texts()
    for template, says in texts["unknown_verbs"].items():
        names = parameters(template)
        bindings = [{name: value} for name in names for value in game.world.members.get(type_of(name), ())]
        for binding in bindings if names else [{}]:
            move = Move(template, binding)
            refusal = game.read(move.text)
            if isinstance(refusal, Refusal):
                said = says.format(**binding)
                yield Mistake(move.text, "parameter_error", move, said, texts["belief_verb"], refusal.message)
    for possible in game.moves():
        if isinstance(game.judge(possible), Refusal):
            continue
        for name, value in _unfit_values(game, possible):
            move = Move(possible.template, {**possible.binding, name: value})
            refusal = game.read(game.render(move))
            if isinstance(refusal, Refusal):
                yield _mistake(game, move, refusal)


def _unfit_values(game: Game, move: Move) -> Iterator[tuple[str, str]]:
    """Values that a parameter of a possible action does not take: other objects here, and nouns of the theme."""
    nouns, rules = catalogue.all_themes()[game.world.theme].nouns, game.world.rules
    for name in move.binding:
        valid = game.world.members[type_of(name)]
        pools = {rules.objects[leaf].pool for leaf in rules.leaves(type_of(name)) if leaf in rules.objects}
        others = [noun for pool in sorted(pools) for noun in nouns[pool]]
        yield from ((name, value) for value in (*game.world.objects, *others) if value not in valid)
