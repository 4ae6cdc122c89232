"""A world as a script in the paper's form (section 3.1): nested environment, goal, actions."""

from typing import Any

from agentrefine.game.actions import ActionSpec
from agentrefine.game.script import Script
from agentrefine.worlds.family import parameters, sentence, template_regex, type_of
from agentrefine.worlds.layout import World


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
    facts: dict[str, list[str]] = {name: [] for name in world.objects}
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
            facts[fact[1]].append(sentence(predicate.text(fact)))
    nodes: dict[str, dict[str, Any]] = {
        name: {"type": kind, **({"facts": facts[name]} if facts[name] else {})} for name, kind in world.objects.items()
    }
    for name in nodes:
        if name in outer:
            nodes[outer[name]].setdefault("holds", {})[name] = nodes[name]
    places = {name: node for name, node in nodes.items() if name not in outer}
    return {"world": world.id, "places": places, "player": player}
