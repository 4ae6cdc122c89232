"""Worlds: a family in a theme, laid out by a seed, always solvable."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, NamedTuple

from agentrefine.errors import UserError
from agentrefine.files import short_hash
from agentrefine.game.actions import ActionSpec
from agentrefine.game.script import Script
from agentrefine.worlds import catalogue
from agentrefine.worlds.facts import Fact, Pattern, index, query, type_of
from agentrefine.worlds.family import Family, Theme
from agentrefine.worlds.language import enumeration, parameters, sentence, template_regex
from agentrefine.worlds.planner import PlanningProblem, find_plan, problem_of

EVALUATION_SEEDS = 1_000_000
"""Layouts with this seed or a higher one are for evaluation only; teachers draw lower ones."""
MAX_ATTEMPTS = 500
"""Layouts that are drawn until one can be solved."""


class GoalCondition(NamedTuple):
    """A ground fact that the goal demands.

    Attributes:
        fact: what must hold.
        text: how the goal says it.
        part: conditions with the same number concern the same object and belong together.
    """

    fact: Fact
    text: str
    part: int


@dataclass(frozen=True)
class World:
    """A world before the first action.

    Attributes:
        family, theme, seed: where it comes from.
        rules: the family's definition.
        members: for each type, the objects that belong to it.
        start: the facts that hold at the start.
        conditions: what the goal demands, in the order in which the goal says it.
    """

    family: str
    theme: str
    seed: int
    rules: Family
    members: dict[str, tuple[str, ...]]
    start: frozenset[Fact]
    conditions: tuple[GoalCondition, ...]

    @property
    def id(self) -> str:
        """`family.theme.seed`; `world_from_id` makes the same world of it."""
        return f"{self.family}.{self.theme}.{self.seed}"

    @property
    def goal(self) -> str:
        """The task in a sentence."""
        return sentence(enumeration([condition.text for condition in self.conditions]))

    @property
    def objects(self) -> dict[str, str]:
        """Every object with its leaf type."""
        return {name: kind for kind in self.rules.objects for name in self.members[kind]}

    @cached_property
    def problem(self) -> PlanningProblem:
        """The world in the planner's form."""
        return problem_of(self.rules, self.members, self.start)


def draw_world(family: str, theme: str, seed: int) -> World:
    """The world of a family, a theme and a seed. The planner has solved it; no goal condition holds at the start.

    Raises:
        KeyError: there is no such family or theme.
        UserError: the family's data file admits no solvable layout in this theme.
    """
    rules, nouns = catalogue.all_families()[family], catalogue.all_themes()[theme]
    for attempt in range(MAX_ATTEMPTS):
        rng = Random(int(short_hash("world", family, theme, str(seed), str(attempt)), 16))
        members = _draw_members(rules, nouns, rng)
        start = _draw_start(rules, members, rng)
        conditions = _draw_goal(rules, members, start, rng)
        if not conditions:
            continue
        world = World(family, theme, seed, rules, members, start, conditions)
        plan = find_plan(world.problem, start, [c.fact for c in conditions])
        if plan is not None and rules.plan[0] <= len(plan) <= rules.plan[1]:
            return world
    message = f"family `{family}`: no solvable layout in theme `{theme}`; correct `objects`, `goals` or `plan`."
    raise UserError("no_solvable_layout", message, family=family, theme=theme)


def world_from_id(world_id: str) -> World:
    """The world of an id. Raises UserError if the text is not the id of a world."""
    with suppress(ValueError, KeyError):
        family, theme, seed = world_id.split(".")
        if str(int(seed)) == seed:
            return draw_world(family, theme, int(seed))
    message = f"{world_id[:80]!r} is not a world's id; expected family.theme.seed."
    raise UserError("bad_world_id", message, value=world_id[:80])


def _draw_members(rules: Family, theme: Theme, rng: Random) -> dict[str, tuple[str, ...]]:
    pools = {pool: rng.sample(theme.nouns[pool], len(theme.nouns[pool])) for pool in sorted(theme.nouns)}
    members: dict[str, tuple[str, ...]] = {}
    for kind, objects in rules.objects.items():
        if len(pools.get(objects.pool, ())) < objects.count[1]:
            message = f"theme `{theme.name}`: too few nouns of `{objects.pool}` for family `{rules.name}`; add some."
            raise UserError("too_few_nouns", message, theme=theme.name, family=rules.name, pool=objects.pool)
        members[kind] = tuple(sorted(pools[objects.pool].pop() for _ in range(rng.randint(*objects.count))))
    for kind in rules.types:
        for leaf in rules.leaves(kind):
            members.setdefault(leaf, ())
        members[kind] = tuple(name for leaf in rules.leaves(kind) for name in members[leaf])
    return members


def _draw_start(rules: Family, members: dict[str, tuple[str, ...]], rng: Random) -> frozenset[Fact]:
    facts: set[Fact] = set()
    for rule in rules.start:
        targets = [{}] if rule.each is None else [{rule.each: name} for name in members.get(rule.each, ())]
        for target in targets:
            for _ in range(rule.times):
                binding = dict(target)
                patterns = [*rule.facts, *(rng.choice(rule.any) if rule.any else ())]
                for pattern in patterns:
                    _complete(pattern, members, binding, rng)
                facts.update(pattern.ground(binding) for pattern in patterns)
    return frozenset(facts)


def _complete(pattern: Pattern, members: dict[str, tuple[str, ...]], binding: dict[str, str], rng: Random) -> None:
    for variable in pattern.variables:
        if variable not in binding:
            binding[variable] = rng.choice(members[type_of(variable)])


def _draw_goal(
    rules: Family, members: dict[str, tuple[str, ...]], start: frozenset[Fact], rng: Random
) -> tuple[GoalCondition, ...]:
    """The goal's conditions; none where a part of the goal has no objects of its own or holds at the start."""
    conditions: list[GoalCondition] = []
    used: list[str] = []
    for part in rules.goals:
        for _ in range(rng.randint(*part.count)):
            options = list(query(part.given, index(start), members, {}))
            if not options:
                return ()
            binding = dict(rng.choice(options))
            for condition in part.conditions:
                _complete(condition.fact, members, binding, rng)
            facts = [condition.fact.ground(binding) for condition in part.conditions]
            if facts[0][1] in used or not start.isdisjoint(facts):
                return ()
            texts = [condition.text.format(**binding) for condition in part.conditions]
            conditions += [GoalCondition(fact, text, len(used)) for fact, text in zip(facts, texts, strict=True)]
            used.append(facts[0][1])
    return tuple(conditions)


def script_of(world: World) -> Script:
    """The script of a world. Its environment holds everything, the objects that the goal does not need included.

    `environment["world"]` is the world's id; objects are nested in what contains them; facts that are no containment
    stand in words with their first object.
    """
    predicates = world.rules.predicates
    return Script(
        environment=_environment(world),
        goal=world.goal,
        completion_conditions=[sentence(predicates[c.fact[0]].text(c.fact)) for c in world.conditions],
        available_actions={
            template: ActionSpec(
                description=action.does,
                verification_code=template_regex(template),
                parameters={name: list(world.members[type_of(name)]) for name in parameters(template)},
            )
            for template, action in world.rules.actions.items()
        },
    )


def _environment(world: World) -> dict[str, Any]:
    outer: dict[str, str] = {}
    nodes: dict[str, dict[str, Any]] = {name: {"type": kind} for name, kind in world.objects.items()}
    player: list[str] = []
    for fact in sorted(world.start):
        predicate = world.rules.predicates[fact[0]]
        binding = dict(zip(predicate.of, fact[1:], strict=True))
        nested = [binding[variable] for variable in predicate.nests or ()]
        if len({*nested}) == 2:
            outer.setdefault(nested[0], nested[1])
        elif predicate.about == "player":
            player.append(sentence(predicate.text(fact)))
        elif predicate.about == "objects":
            nodes[fact[1]].setdefault("facts", []).append(sentence(predicate.text(fact)))
    for name in nodes:
        if name in outer:
            nodes[outer[name]].setdefault("holds", {})[name] = nodes[name]
    places = {name: node for name, node in nodes.items() if name not in outer}
    return {"world": world.id, "places": places, "player": player}
