"""Robustness: the same worlds with their actions in several wordings (paper, robustness study)."""

from collections.abc import Sequence
from statistics import stdev

from pydantic import BaseModel, ConfigDict

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics.rates import Rate, ratio, share


class OutcomeRates(BaseModel):
    """Success and progress of some of a benchmark's episodes."""

    model_config = ConfigDict(frozen=True)

    success_rate: Rate
    progress_rate: Rate


class Robustness(BaseModel):
    """How much success and progress depend on the wording of the actions.

    Attributes:
        worlds: worlds that were played in every wording; the others are left out here.
        wordings: what was reached in each wording on these worlds.
        mean: the mean of the wordings' rates. Its interval draws worlds with all their wordings.
        success_std, progress_std: sample standard deviation (over k - 1) of the k wordings' rates, in [0, 1]; None for
            one wording. It has no interval.
    """

    model_config = ConfigDict(frozen=True)

    worlds: int
    wordings: dict[str, OutcomeRates]
    mean: OutcomeRates
    success_std: float | None
    progress_std: float | None


def outcome(episodes: Sequence[Episode]) -> OutcomeRates:
    """Success and progress of episodes."""
    clusters = [episode.cluster for episode in episodes]
    return OutcomeRates(
        success_rate=share([episode.success for episode in episodes], clusters),
        progress_rate=ratio([episode.progress for episode in episodes], [1] * len(episodes), clusters),
    )


def robustness(episodes: Sequence[Episode]) -> Robustness | None:
    """Wordings compared on the same worlds; None where the episodes have no wordings or no world was played in all."""
    names = sorted({episode.wording for episode in episodes if episode.wording})
    played: dict[str, set[str]] = {}
    for episode in episodes:
        played.setdefault(episode.cluster, set()).add(episode.wording)
    worlds = {world for world, wordings in played.items() if wordings.issuperset(names)}
    if not names or not worlds:
        return None
    compared = [episode for episode in episodes if episode.cluster in worlds]
    wordings = {name: outcome([episode for episode in compared if episode.wording == name]) for name in names}
    return Robustness(
        worlds=len(worlds),
        wordings=wordings,
        mean=outcome(compared),
        success_std=_deviation([found.success_rate for found in wordings.values()]),
        progress_std=_deviation([found.progress_rate for found in wordings.values()]),
    )


def _deviation(rates: Sequence[Rate]) -> float | None:
    return stdev(rate.value for rate in rates if rate.value is not None) if len(rates) > 1 else None
