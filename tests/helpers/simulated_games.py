"""What the simulated teacher writes when it answers well."""

from collections.abc import Iterator
from typing import Any

from agentrefine.game.personas import Persona
from agentrefine.game.script import Script
from agentrefine.params import load_params
from agentrefine.simulation.answers import generator, world_for
from agentrefine.simulation.game import write_game
from agentrefine.worlds.catalogue import families
from agentrefine.worlds.layout import script_of, world_from_id
from tests.helpers.paths import ROOT

PARAMS = load_params(ROOT / "params.yaml")
VERIFICATION = PARAMS.verification
FAULTLESS = PARAMS.teacher.offline.model_copy(
    update={"script_faults": 0.0, "trajectory_faults": 0.0, "wire_faults": 0.0, "mistakes": [2, 3]}
)
BAKER = Persona(id="baker", text="A baker in Ghent who sells bread to night workers")
TRAIN_FAMILIES = [family.name for family in families("train")]


def script_for(family: str, seed: int = 3) -> Script:
    return script_of(world_from_id(f"{family}.kitchen.{seed}"))


def games(count: int, mistakes: tuple[int, int] = (2, 3)) -> Iterator[tuple[Script, list[dict[str, Any]]]]:
    for number in range(count):
        world = world_for(f"persona {number // len(TRAIN_FAMILIES)}", number)
        yield script_of(world), write_game(world, [], mistakes, generator("test", str(number)))
