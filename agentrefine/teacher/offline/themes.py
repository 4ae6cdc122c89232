"""Which world a persona gets: a train theme that its words call for, a train family, a layout for teaching."""

import re
from functools import cache, lru_cache
from importlib import resources

import yaml

from agentrefine.synthesis import SAMPLES_PER_CALL
from agentrefine.teacher.offline.draws import share
from agentrefine.worlds.catalogue import families, family, theme, themes
from agentrefine.worlds.layout import EVALUATION_SEEDS, World, world_from_id

_WORD = re.compile(r"\w+")


def world_for(persona: str, sample: int | None) -> World:
    """The world of a persona's sample, the same one in all of its calls. Samples in a row get different families.

    Args:
        persona: the sentence.
        sample: the request's `seed`, which holds the sample and the call (see `agentrefine.synthesis.ask`).
    """
    number = (sample or 0) % SAMPLES_PER_CALL
    names = [definition.name for definition in families("train")]
    drawn = names[(int(share("family", persona) * len(names)) + number) % len(names)]
    seed = int(share("layout", persona, str(number)) * EVALUATION_SEEDS)
    return world_of(f"{drawn}.{_theme(persona, number)}.{seed}")


@lru_cache(maxsize=2048)
def world_of(world_id: str) -> World:
    """The world of an id; those asked for lately are kept, since drawing one takes a while.

    Raises:
        UserError: the text is not the id of a world.
    """
    return world_from_id(world_id)


def is_for_teaching(world: World) -> bool:
    """Whether a world is none of those that models are evaluated on."""
    split = (family(world.family).split, theme(world.theme).split)
    return split == ("train", "train") and 0 <= world.seed < EVALUATION_SEEDS


def _theme(persona: str, number: int) -> str:
    called_for = theme_words()
    for word in _WORD.findall(persona.lower()):
        if word in called_for:
            return called_for[word]
    names = [definition.name for definition in themes("train")]
    return names[int(share("theme", persona, str(number)) * len(names))]


@cache
def theme_words() -> dict[str, str]:
    """For each word that calls for a theme, the theme."""
    text = resources.files("agentrefine.teacher.offline").joinpath("themes.yaml").read_text(encoding="utf-8")
    return {word: name for name, words in yaml.safe_load(text).items() for word in words}
