"""What the player reads after each action.

Bookkeeping by the environment, stated here because it makes the game easier and must be told wherever results are
shown: every observation, an error's too, restates where the player is, what is visible there, what is held, which
places have not been seen yet, which conditions of the goal are still open, and where the player has last seen the
objects of these and the means (keys, tools, devices, ...) that goals need without naming them.
Nothing is told that the player has not been shown before.
"""

from collections.abc import Collection, Iterator

from agentrefine.worlds import catalogue
from agentrefine.worlds.facts import Fact, Index, Members, index, query
from agentrefine.worlds.family import Predicate, Sentence
from agentrefine.worlds.language import enumeration
from agentrefine.worlds.layout import World

WHEREABOUTS = ("in", "stands", "part")
"""Predicates that say where an object is: their first argument is in the second."""


MEANS = ("washer", "heater", "device", "key", "vault", "tool", "money")
"""Types of objects that goals need without naming them."""


def visible(world: World, facts: Index) -> set[Fact]:
    """The facts that the player sees in a state."""
    seen: set[Fact] = set()
    for name, known in facts.items():
        predicate = world.rules.predicates[name]
        if predicate.seen == "always":
            seen.update(known)
        else:
            seen.update(fact for fact in known if _is_seen(predicate, fact, facts, world.members))
    return seen


def _is_seen(predicate: Predicate, fact: Fact, facts: Index, members: Members) -> bool:
    binding = dict(zip(predicate.of, fact[1:], strict=True))
    alternatives = () if predicate.seen == "always" else predicate.seen
    return any(next(query(patterns, facts, members, binding), None) is not None for patterns in alternatives)


def opening(world: World, seen: Collection[Fact]) -> str:
    """What is told once, at the start of the game, from the visible facts."""
    return _say(world.rules.opening, index(seen), world.members)


def status(
    world: World,
    seen: Collection[Fact],
    state: Collection[Fact],
    known: Collection[Fact],
    unseen_places: Collection[str],
) -> str:
    """The bookkeeping: where the player is, what is here, what is held, which places are new, what is left of the goal.

    After what is left stands what the player has seen of the objects of the open conditions (`notes`).
    """
    open_conditions = [condition for condition in world.conditions if condition.fact not in state]
    left = [condition.text for condition in open_conditions]
    texts = catalogue.texts()
    rest = texts["left"].format(conditions=enumeration(left)) if left else texts["complete"]
    if unseen_places:
        places = enumeration([texts["named_value"].format(value=name) for name in unseen_places], texts["or"])
        rest = f"{texts['unseen'].format(places=places)} {rest}"
    if open_conditions:
        wanted = dict.fromkeys(name for condition in open_conditions for name in condition.fact[1:])
        rest = " ".join([rest, *notes(world, known, tuple(wanted))])
    return f"{_say(world.rules.observation, index(seen), world.members)} {rest}"


def notes(world: World, known: Collection[Fact], names: Collection[str]) -> Iterator[str]:
    """Where the player last saw the objects in `names` and the means (washers, keys, ...), or who sells them.

    Places, and what is held, are left out; of `names`, what has not been seen is said to be so.
    """
    texts = catalogue.texts()
    here = next((fact[1] for fact in known if fact[0] == "at"), "")
    means = [name for kind in MEANS for name in world.members.get(kind, ()) if name not in names]
    sellers = {fact[2]: fact[1] for fact in sorted(known) if fact[0] == "sells" and fact[2] in names}
    means += dict.fromkeys(sellers.values())
    for name in (*names, *means):
        if name in world.members["place"] or ("hold", name) in known:
            continue
        if name in sellers:
            yield texts["sold"].format(name=name, person=sellers[name])
            continue
        spot = next((fact[2] for fact in sorted(known) if fact[0] in WHEREABOUTS and fact[1] == name), None)
        if spot is None and name in means:
            continue
        if spot is None:
            yield texts["unknown"].format(name=name)
        elif spot == here:
            yield texts["here"].format(name=name)
        else:
            yield texts["elsewhere"].format(name=name, spot=spot)


def _say(sentences: tuple[Sentence, ...], facts: Index, members: Members) -> str:
    """All sentences, each once; those with the same text (of several modules) join their lists."""
    said: dict[str, dict[str, None]] = {}
    otherwise: dict[str, str] = {}
    for sentence in sentences:
        for binding in query(sentence.for_, facts, members, {}):
            text = sentence.text.format(list="{list}", **binding)
            entries = said.setdefault(text, {})
            entries.update(
                dict.fromkeys(sentence.show.format(**b) for b in query(sentence.list, facts, members, binding))
            )
            otherwise[text] = otherwise.get(text) or sentence.none.format(**binding)
    return " ".join(filled for text, entries in said.items() if (filled := _fill(text, list(entries), otherwise[text])))


def _fill(text: str, entries: list[str], none: str) -> str:
    if "{list}" not in text:
        return text
    return text.format(list=enumeration(entries)) if entries else none
