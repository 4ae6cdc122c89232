"""Hand-made records for tests: sound by construction, different for different numbers."""

from __future__ import annotations

import random
from typing import NamedTuple

from agentrefine.files import short_hash
from agentrefine.game.actions import ActionSpec
from agentrefine.game.script import Script
from agentrefine.game.trajectory import DMTurn, DroppedSample, PlayerTurn, Trajectory

PLACES = ("kitchen", "garden", "cellar", "attic", "library", "workshop", "harbor", "market", "chapel", "stable")
ITEMS = (
    "lamp",
    "rope",
    "spoon",
    "ledger",
    "hammer",
    "violin",
    "kettle",
    "compass",
    "mirror",
    "basket",
    "candle",
    "map",
)
COLORS = ("red", "blue", "green", "black", "white", "amber", "violet", "grey", "golden", "silver")
MISTAKES = ("parameter", "logic", "place")


class Dialect(NamedTuple):
    """How a kind of game calls its three actions and its goal."""

    go: str
    take: str
    drop: str
    goal: str


DIALECTS = (
    Dialect("go", "take", "drop", "Bring the {item} from the {source} to the {target}."),
    Dialect(
        "walk to", "pick up", "put down", "Somebody needs the {item} in the {target}; it was left in the {source}."
    ),
    Dialect("enter", "grab", "leave", "In the {target} the {item} is missed: look for it in the {source}."),
)
"""Kinds of games that differ in more than their names."""


def make_script(number: int = 0, world: str | None = None, dialect: Dialect = DIALECTS[0]) -> Script:
    """A game of carrying one item from one place to another; places, items and colors differ with `number`."""
    draw = random.Random(number)
    places = draw.sample(PLACES, 5)
    items = draw.sample(ITEMS, 8)
    contents = {place: {} for place in places}
    for item in items[1:]:
        contents[draw.choice(places)][item] = {"color": draw.choice(COLORS)}
    contents[places[1]][items[0]] = {"color": draw.choice(COLORS)}
    environment = {"places": contents, "player": {"place": places[0], "holds": []}}
    return Script(
        environment=environment if world is None else {"world": world, **environment},
        goal=dialect.goal.format(item=items[0], source=places[1], target=places[2]),
        completion_conditions=[f"the {items[0]} is in the {places[2]}"],
        available_actions={
            f"{dialect.go} {{place}}": ActionSpec(
                description="Walk to a place.",
                verification_code=rf"{dialect.go} [a-z]+",
                parameters={"place": places},
            ),
            f"{dialect.take} {{item}}": ActionSpec(
                description="Pick up an item that is here.",
                verification_code=rf"{dialect.take} [a-z]+",
                parameters={"item": items},
            ),
            f"{dialect.drop} {{item}}": ActionSpec(
                description="Leave a carried item here.",
                verification_code=rf"{dialect.drop} [a-z]+",
                parameters={"item": items},
            ),
        },
    )


def make_trajectory(
    number: int = 0,
    *,
    mistakes: int = 2,
    persona: str | None = None,
    sample: int = 0,
    world: str | None = None,
    dialect: Dialect = DIALECTS[0],
) -> Trajectory:
    """A sound, completed game of `make_script(number)` with so many mistakes, each corrected by the next turn.

    Mistakes are of all kinds in turn. A game without any has four player turns; each mistake adds one.
    """
    script = make_script(number, world, dialect)
    persona = persona or f"A person whose number is {number}."
    persona_id = short_hash("persona", persona)
    turns = _play(script, dialect, mistakes, random.Random(-number - 1))
    return Trajectory(
        id=short_hash(persona_id, str(sample), script.model_dump_json(), *(turn.model_dump_json() for turn in turns)),
        persona_id=persona_id,
        persona=persona,
        sample=sample,
        script=script,
        turns=turns,
        calls=[short_hash("call", persona_id, str(sample))],
        teacher="builder",
    )


def _play(script: Script, dialect: Dialect, mistakes: int, draw: random.Random) -> list[DMTurn | PlayerTurn]:
    places = script.available_actions[f"{dialect.go} {{place}}"].parameters["place"]
    item = script.available_actions[f"{dialect.take} {{item}}"].parameters["item"][0]
    start, source, target = places[:3]
    seen = {place: _contents(script, place) for place in places}
    solution = [
        (f"{dialect.go} {source}", f"You are in the {source}. You see {seen[source]}."),
        (f"{dialect.take} {item}", f"You now carry the {item}."),
        (f"{dialect.go} {target}", f"You are in the {target}. You see {seen[target]}."),
        (f"{dialect.drop} {item}", f"You leave the {item} in the {target}."),
    ]
    listed = ", ".join(places)
    turns: list[DMTurn | PlayerTurn] = [_dm(1, f"You are in the {start}. You see {seen[start]}. There are {listed}.")]
    for position, (action, observation) in enumerate(solution):
        for made in range(position, mistakes, len(solution)):
            here = (start, source, source, target)[position]
            turns += _mistake(MISTAKES[made % 3], len(turns), here, script, dialect, draw)
        turns.append(_player(len(turns) + 1, f"The {item} belongs in the {target}, so I {action}.", action))
        turns.append(_dm(len(turns) + 1, observation, completed=position == len(solution) - 1))
    return turns


def _mistake(
    kind: str, turns: int, here: str, script: Script, dialect: Dialect, draw: random.Random
) -> list[DMTurn | PlayerTurn]:
    """A wrong player turn and the DM's error feedback."""
    items = script.available_actions[f"{dialect.take} {{item}}"].parameters["item"]
    elsewhere = draw.choice([item for item in items[1:] if item not in script.environment["places"][here]])
    wrong, message = {
        "parameter": (f"{dialect.go} {draw.choice(('moon', 'sea', 'roof', 'tower'))}", "There is no such place."),
        "logic": (f"{dialect.go} {here}", "You are there already."),
        "place": (f"{dialect.take} {elsewhere}", f"The {elsewhere} is not here."),
    }[kind]
    player = _player(turns + 1, f"I believe that I should {wrong}.", wrong)
    return [player, _dm(turns + 2, f"{message} Try something else.", error=kind)]


def _contents(script: Script, place: str) -> str:
    here = script.environment["places"][place]
    return ", ".join(f"a {value['color']} {item}" for item, value in here.items()) or "nothing"


def _dm(turn: int, observation: str, *, error: str | None = None, completed: bool = False) -> DMTurn:
    return DMTurn(
        turn=turn,
        role="DM",
        thought="The player knows what it has seen.",
        observation=observation,
        parameter_error=error == "parameter",
        logic_error=error == "logic",
        place_error=error == "place",
        task_completed=completed,
    )


def _player(turn: int, thought: str, action: str) -> PlayerTurn:
    return PlayerTurn(turn=turn, role="Player", thought=thought, action=action)


def dropped_line(persona_id: str, rule: str) -> str:
    """A line of dropped.jsonl."""
    dropped = DroppedSample(persona_id=persona_id, persona="x", sample=0, rule=rule, message=f"About {rule}.", calls=4)
    return dropped.model_dump_json() + "\n"
