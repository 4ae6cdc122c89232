"""What training data must not contain: the worlds and texts that models are evaluated on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentrefine.quality.benchmark_texts import BenchmarkTexts
from agentrefine.quality.overlap import Found, OverlapIndex
from agentrefine.script import Script
from agentrefine.worlds import catalogue
from agentrefine.worlds.layout import EVALUATION_SEEDS

WORLD_ID = re.compile(r"(?P<family>[^.]+)\.(?P<theme>[^.]+)\.(?P<seed>[0-9]{1,18})")


@dataclass(frozen=True)
class HeldOut:
    """The evaluation's worlds and texts.

    Attributes:
        families: world families that are played in evaluation only.
        themes: world themes that are played in evaluation only.
        first_seed: layouts with this seed or a higher one are played in evaluation only.
        texts: the benchmarks' texts.
    """

    families: frozenset[str]
    themes: frozenset[str]
    first_seed: int
    texts: OverlapIndex

    def overlap(self, script: Script, found: Found) -> str | None:
        """What of the evaluation a game repeats, in words; None when nothing.

        Worlds made here name themselves in the script (`environment.world`, "family.theme.seed"); besides, every game
        is compared with the texts of the benchmarks that are not ours.

        Args:
            script: the game's script.
            found: what `texts` found in the game.
        """
        world = WORLD_ID.fullmatch(world_id(script))
        if world and world["family"] in self.families:
            return f"held-out family {world['family']}"
        if world and world["theme"] in self.themes:
            return f"held-out theme {world['theme']}"
        if world and int(world["seed"]) >= self.first_seed:
            return f"evaluation seed {world['seed']}"
        return found.foreign


def held_out(benchmarks: Sequence[BenchmarkTexts], ngram_words: int) -> HeldOut:
    """What this project evaluates on: the catalogue's held-out worlds and the texts of all benchmarks.

    Args:
        benchmarks: the texts (`benchmark_texts.all_benchmark_texts`).
        ngram_words: length of a telling overlap, in words.
    """
    return HeldOut(
        families=frozenset(family.name for family in catalogue.families("held_out")),
        themes=frozenset(theme.name for theme in catalogue.themes("held_out")),
        first_seed=EVALUATION_SEEDS,
        texts=OverlapIndex(benchmarks, ngram_words),
    )


def world_id(script: Script) -> str:
    """The world that a script was exported from, "family.theme.seed"; empty for a script of another origin."""
    value = script.environment.get("world", "")
    return value if isinstance(value, str) else ""
