"""What the players think: the templates of `thoughts.yaml`, which says what their holes stand for."""

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

import yaml

from agentrefine.files import packaged_text
from agentrefine.worlds.language import capitalised


@cache
def thoughts() -> dict[str, Any]:
    """The templates by kind; under `dm` those of the dungeon master, under `kinds` what an object is called."""
    return dict(yaml.safe_load(packaged_text("agentrefine.simulation", "thoughts.yaml")))


def phrasings() -> Iterator[str]:
    """Every template of a player's thought."""
    yield from (text for texts in thoughts().values() if isinstance(texts, list) for text in texts)
    yield from (thoughts()["short_command"], capitalised(thoughts()["short_command"]), *thoughts()["kinds"].values())


def drawn_thought(kind: str, rng: Random, **holes: str) -> str:
    """A thought of a kind with its holes filled; for a hole with a capital letter, the text is capitalised."""
    capitals = {capitalised(name): capitalised(text) for name, text in holes.items()}
    template: str = rng.choice(thoughts()[kind])
    return template.format(**holes, **capitals)
