"""ALFWorld games made offline: a furnished room, a goal of one of the six task types, and the planner's solution.

The rules, the texts, the goals and what fits where are ALFWorld's own (`alfred.pddl`, `alfred.twl2`, `alfworld.gen`);
the rooms are drawn with the game's seed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agentrefine.benchmarks.common import data_of, rng_of

DATA = data_of("alfworld", "alfworld.yaml")
TASKS: dict[str, dict[str, Any]] = DATA["tasks"]
LIGHT = "look_at_obj_in_light"
TWO = "pick_two_obj_and_place"
_BASINS = {"SinkBasin": "Sink", "BathtubBasin": "Bathtub"}
_ABILITIES = ("Cleanable", "Heatable", "Coolable", "Sliceable", "Toggleable")


@dataclass
class House:
    """One room and the goal in it.

    Attributes:
        receptacles: name (as in ALFWorld's problems) and kind, in the order of their locations.
        objects: name, kind and the index of the receptacle that each lies in.
        target, place, lamp: the kinds of object, receptacle and lamp that the goal is about, empty where there is none.
    """

    receptacles: list[tuple[str, str]] = field(default_factory=list)
    objects: list[tuple[str, str, int]] = field(default_factory=list)
    target: str = ""
    place: str = ""
    lamp: str = ""


def game_of(task: str, seed: int) -> dict[str, Any]:
    """A game of a task type, as ALFWorld's files hold it but without a solution; the same for the same seed."""
    from alfworld.gen.goal_library import gdict  # the simulator is optional
    from alfworld.info import ALFRED_PDDL_PATH, ALFRED_TWL2_PATH

    rng = rng_of("alfworld", task, seed)
    house = _furnished(task, rng)
    names = {"obj": house.target, "recep": house.place, "toggle": house.lamp}
    goal = gdict[task]["pddl"].replace("#", "-").format(**names)
    targets = {"object_target": house.target, "parent_target": house.place, "toggle_target": house.lamp}
    sentence = rng.choice(gdict[task]["templates"]).format(**{name: kind.lower() for name, kind in names.items()})
    return {
        "pddl_domain": Path(ALFRED_PDDL_PATH).read_text(encoding="utf-8"),
        "grammar": Path(ALFRED_TWL2_PATH).read_text(encoding="utf-8").replace("UNKNOWN GOAL", sentence),
        "pddl_problem": _problem(house, goal),
        "task_type": task,
        "pddl_params": {**targets, "mrecep_target": ""},
    }


def _furnished(task: str, rng: Random) -> House:
    """A room in which the goal does not hold yet and can be reached."""
    from alfworld.gen.constants import VAL_ACTION_OBJECTS, VAL_RECEPTACLE_OBJECTS

    room = DATA["rooms"][rng.choice(TASKS[task]["rooms"])]
    house = House()
    counts = {kind: rng.randint(*bounds) for kind, bounds in room["receptacles"].items()}
    for kind, count in counts.items():
        house.receptacles += [(_name(kind, number), kind) for number in range(1, count + 1)]
    rng.shuffle(house.receptacles)
    able = TASKS[task].get("able")
    places = [kind for kind, count in counts.items() if count]
    goals = [
        (target, place)
        for target in room["objects"]
        if able is None or target in VAL_ACTION_OBJECTS[able]
        for place in places
        if target in VAL_RECEPTACLE_OBJECTS.get(place, ()) and _homes(house, target, place)
    ]
    house.target, house.place = rng.choice(goals)
    kinds, (min_copies, max_copies) = (TASKS[task].get(setting, DATA[setting]) for setting in ("kinds", "copies"))
    others = [kind for kind in room["objects"] if kind != house.target]
    for kind in (house.target, *rng.sample(others, min(len(others), kinds - 1))):
        homes = _homes(house, kind, house.place if kind == house.target else "")
        if homes:
            copies = range(1, rng.randint(min_copies, max_copies) + 1)
            house.objects += [(_name(kind, number), kind, rng.choice(homes)) for number in copies]
    if task == LIGHT:
        house.place, house.lamp = "", rng.choice(room["lamps"])
        stands = [at for at, (_, kind) in enumerate(house.receptacles) if kind in DATA["lamp_stands"]]
        house.objects.append((_name(house.lamp, 1), house.lamp, rng.choice(stands)))
    return house


def _homes(house: House, kind: str, but_not: str) -> list[int]:
    """Where an object of this kind may lie."""
    from alfworld.gen.constants import VAL_RECEPTACLE_OBJECTS

    return [
        at
        for at, (_, receptacle) in enumerate(house.receptacles)
        if receptacle != but_not and kind in VAL_RECEPTACLE_OBJECTS.get(receptacle, ())
    ]


def _name(kind: str, number: int) -> str:
    """A thing's name in ALFWorld's form, from which it derives the name in words (`sinkbasin 1`)."""
    if kind in _BASINS:
        return f"{_BASINS[kind]}_bar_{number}_bar_{kind}"
    return f"{kind}_bar_{number}"


def _problem(house: House, goal: str) -> str:
    """The room and the goal as a PDDL problem. `goal` closes the problem, as ALFWorld's goals do."""
    from alfworld.gen.constants import OBJECTS, OPENABLE_CLASS_SET, VAL_ACTION_OBJECTS, VAL_RECEPTACLE_OBJECTS

    places = sorted({kind for room in DATA["rooms"].values() for kind in room["receptacles"]})
    things = sorted(set(OBJECTS) - set(places))
    objects = ["agent1 - agent", "loc_0 - location"]
    objects += [f"{kind}Type - rtype" for kind in places]
    objects += [f"{kind}Type - otype" for kind in things]
    facts = ["(atLocation agent1 loc_0)", "(= (total-cost) 0)"]
    for at, (name, kind) in enumerate(house.receptacles, start=1):
        objects += [f"loc_{at} - location", f"{name} - receptacle"]
        facts += [f"(receptacleType {name} {kind}Type)", f"(receptacleAtLocation {name} loc_{at})"]
        if kind in OPENABLE_CLASS_SET:
            facts.append(f"(openable {name})")
    for name, kind, at in house.objects:
        objects.append(f"{name} - object")
        facts.append(f"(objectType {name} {kind}Type)")
        facts += [f"(inReceptacle {name} {house.receptacles[at][0]})", f"(objectAtLocation {name} loc_{at + 1})"]
        facts += [f"({ability.lower()} {name})" for ability in _ABILITIES if kind in VAL_ACTION_OBJECTS[ability]]
        if kind not in VAL_ACTION_OBJECTS["Toggleable"]:
            facts.append(f"(pickupable {name})")
    facts += [
        f"(canContain {place}Type {thing}Type)"
        for place in places
        for thing in sorted(VAL_RECEPTACLE_OBJECTS.get(place, ()))
        if thing in things
    ]
    head = ["(define (problem house)", "(:domain alfred)", "(:objects"]
    return "\n".join([*head, *objects, ")", "(:init", *facts, ")", goal])
