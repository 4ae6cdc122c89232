"""What training data must not contain: the worlds and texts that models are evaluated on."""

from collections.abc import Iterable
from dataclasses import dataclass

from agentrefine.quality.text import word_ngrams
from agentrefine.script import Script

NGRAM_WORDS = 8
"""Length of a telling overlap, in words; shorter benchmark texts count only when they are met whole."""


@dataclass(frozen=True)
class HeldOut:
    """The evaluation's worlds and texts.

    Attributes:
        families: world families that are played in evaluation only.
        themes: world themes that are played in evaluation only.
        worlds: ids of single worlds that evaluation episodes play.
        ngrams: word n-grams of the benchmarks' goals and instructions.
    """

    families: frozenset[str] = frozenset()
    themes: frozenset[str] = frozenset()
    worlds: frozenset[str] = frozenset()
    ngrams: frozenset[str] = frozenset()

    def overlap(self, script: Script, first_observation: str) -> str | None:
        """What of the evaluation a game repeats, in words; None when nothing.

        Worlds made here name themselves in the script (`environment.world`, "family.theme.seed"); besides, the n-grams
        of every script's goal and first observation are compared with the benchmarks' texts.
        """
        world = world_id(script)
        family, theme = world.split(".")[:2] if world.count(".") == 2 else ("", "")
        if family in self.families:
            return f"held-out family {family}"
        if theme in self.themes:
            return f"held-out theme {theme}"
        if world in self.worlds:
            return f"evaluation world {world}"
        shared = self.ngrams & (word_ngrams(script.goal, NGRAM_WORDS) | word_ngrams(first_observation, NGRAM_WORDS))
        return f'benchmark text "{min(shared)}"' if shared else None


def ngrams_of(texts: Iterable[str]) -> frozenset[str]:
    """The n-grams of benchmark goals and instructions, for `HeldOut.ngrams`."""
    found: set[str] = set()
    for text in texts:
        found |= word_ngrams(text, NGRAM_WORDS)
    return frozenset(found)


def world_id(script: Script) -> str:
    """The world that a script was exported from, "family.theme.seed"; empty for a script of another origin."""
    value = script.environment.get("world", "")
    return value if isinstance(value, str) else ""
