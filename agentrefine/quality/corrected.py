"""What the quality gate measures of a data set of corrected games."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from agentrefine.game.corrected import CorrectedGame
from agentrefine.game.text import three_word_runs
from agentrefine.quality.diversity import DuplicateIndex
from agentrefine.worlds import catalogue
from agentrefine.worlds.layout import EVALUATION_SEEDS


@dataclass(frozen=True, slots=True)
class CorrectedFeatures:
    """Features of a data set of corrected games.

    Attributes:
        games: how many there are.
        given_up_share: games that were given up / worlds played.
        fault_share: mistaken turns / turns.
        corrected_share: rows of mistakes that the expert answers by the very next turn / rows; 0 without mistakes.
        near_duplicate_share: games whose text repeats an earlier one's / games.
        held_out_overlaps: games in a world of the evaluation.
    """

    games: int
    given_up_share: float
    fault_share: float
    corrected_share: float
    near_duplicate_share: float
    held_out_overlaps: int


def corrected_features(
    games: Sequence[CorrectedGame], *, played: int, given_up: int, similarity: float
) -> CorrectedFeatures:
    """Measure a data set.

    Args:
        games: those that are kept.
        played, given_up: how many worlds were played, and how many of them were given up.
        similarity: Jaccard similarity from which two games are near-duplicates.
    """
    index = DuplicateIndex(similarity, three_word_runs)
    repeated = sum(index.add(game.id, _text(game)).near_duplicate_of is not None for game in games)
    turns = [turn for game in games for turn in game.turns]
    faults = sum(turn.fault is not None for turn in turns)
    corrections = sum(1 for game in games for _ in game.corrections())
    return CorrectedFeatures(
        games=len(games),
        given_up_share=_share(given_up, played),
        fault_share=_share(faults, len(turns)),
        corrected_share=_share(corrections, sum(_rows(game) for game in games)),
        near_duplicate_share=_share(repeated, len(games)),
        held_out_overlaps=sum(is_held_out(game.world) for game in games),
    )


def _rows(game: CorrectedGame) -> int:
    """How many rows of mistakes there are, a single one among them."""
    return sum(failed for failed, _ in groupby(game.turns, key=lambda turn: turn.fault is not None))


def is_held_out(world: str) -> bool:
    """Whether a world of ours is one that models are evaluated on, by its family, theme or layout."""
    family, theme, seed = world.split(".")
    return (
        catalogue.all_families()[family].split == "held_out"
        or catalogue.all_themes()[theme].split == "held_out"
        or int(seed) >= EVALUATION_SEEDS
    )


def _text(game: CorrectedGame) -> str:
    return "\n".join([game.goal, *(f"{turn.text}\n{turn.observation}" for turn in game.turns)])


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
