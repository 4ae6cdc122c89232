"""What training data must not contain: the worlds and texts that models are evaluated on."""

import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from agentrefine.benchmarks.base import Benchmark
from agentrefine.quality.text import word_ngrams
from agentrefine.script import Script
from agentrefine.worlds import catalogue
from agentrefine.worlds.layout import EVALUATION_SEEDS

NGRAM_WORDS = 8
"""Length of a telling overlap, in words; shorter benchmark texts count only when they are met whole."""

WORLD_ID = re.compile(r"(?P<family>[^.]+)\.(?P<theme>[^.]+)\.(?P<seed>[0-9]{1,18})")


@dataclass(frozen=True)
class HeldOut:
    """The evaluation's worlds and texts.

    Attributes:
        families: world families that are played in evaluation only.
        themes: world themes that are played in evaluation only.
        first_seed: layouts with this seed or a higher one are played in evaluation only.
        ngrams: word n-grams of the benchmarks' goals and instructions.
    """

    families: frozenset[str]
    themes: frozenset[str]
    first_seed: int
    ngrams: frozenset[str]

    def overlap(self, script: Script, first_observation: str) -> str | None:
        """What of the evaluation a game repeats, in words; None when nothing.

        Worlds made here name themselves in the script (`environment.world`, "family.theme.seed"); besides, the n-grams
        of every script's goal and first observation are compared with the benchmarks' texts.
        """
        world = WORLD_ID.fullmatch(world_id(script))
        if world and world["family"] in self.families:
            return f"held-out family {world['family']}"
        if world and world["theme"] in self.themes:
            return f"held-out theme {world['theme']}"
        if world and int(world["seed"]) >= self.first_seed:
            return f"evaluation seed {world['seed']}"
        shared = self.ngrams & (word_ngrams(script.goal, NGRAM_WORDS) | word_ngrams(first_observation, NGRAM_WORDS))
        return f'benchmark text "{min(shared)}"' if shared else None


def held_out(texts: Iterable[str] = ()) -> HeldOut:
    """What this project evaluates on: the catalogue's held-out worlds and the goals of other benchmarks.

    Args:
        texts: goals or instructions of benchmarks that are no worlds of ours (`goal_texts`).
    """
    ngrams: set[str] = set()
    for text in texts:
        ngrams |= word_ngrams(text, NGRAM_WORDS)
    return HeldOut(
        families=frozenset(family.name for family in catalogue.families("held_out")),
        themes=frozenset(theme.name for theme in catalogue.themes("held_out")),
        first_seed=EVALUATION_SEEDS,
        ngrams=frozenset(ngrams),
    )


def goal_texts(benchmark: Benchmark, limit: int, seed: int) -> Iterator[str]:
    """The goals of a benchmark's episodes.

    Raises:
        UserError: a package or data folder of the benchmark is missing.
    """
    for spec in benchmark.episodes(limit, seed):
        with closing(benchmark.make(spec)) as environment:
            environment.reset()
            yield environment.goal


def world_id(script: Script) -> str:
    """The world that a script was exported from, "family.theme.seed"; empty for a script of another origin."""
    value = script.environment.get("world", "")
    return value if isinstance(value, str) else ""
