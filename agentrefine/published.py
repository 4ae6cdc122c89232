"""The paper's published results, beside which a model that has played AgentBoard's own episodes is shown."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict

from agentrefine.metrics import BenchmarkSummary

NOT_COMPARABLE = "not comparable"


class Score(NamedTuple):
    """Success and progress in percent."""

    success: float
    progress: float


class Published(BaseModel):
    """`published.yaml`.

    Attributes:
        source: where the figures are from.
        episodes: how many of each benchmark AgentBoard has.
        held_out: the benchmarks of the held-out score.
        models: what each model reached, by benchmark.
        held_in: the benchmarks whose environments a model was tuned on, by model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    episodes: dict[str, int]
    held_out: list[str]
    models: dict[str, dict[str, Score]]
    held_in: dict[str, list[str]]

    def held_out_score(self, scores: Mapping[str, Score]) -> Score | None:
        """The paper's held-out score: the mean of BabyAI, ScienceWorld, PDDL and Jericho, weighed by their episodes.

        None where one of them is missing.
        """
        if not all(name in scores for name in self.held_out):
            return None
        total = sum(self.episodes[name] for name in self.held_out)
        success, progress = (
            sum(self.episodes[name] * scores[name][part] for name in self.held_out) / total for part in (0, 1)
        )
        return Score(success, progress)


@cache
def published() -> Published:
    """The published results."""
    text = resources.files("agentrefine").joinpath("published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))


def comparable(summaries: Mapping[str, BenchmarkSummary], agentboard: Iterable[str]) -> dict[str, Score]:
    """What a model reached on the benchmarks of which it has played all of AgentBoard's episodes, each once."""
    own = set(agentboard)
    found = {}
    for name, number in published().episodes.items():
        summary = summaries.get(name)
        if name in own and summary is not None and summary.attempts == 1 and summary.episodes == number:
            success, progress = summary.success_rate.value, summary.progress_rate.value
            assert success is not None
            assert progress is not None
            found[name] = Score(100 * success, 100 * progress)
    return found


def why_not_comparable(name: str, summaries: Mapping[str, BenchmarkSummary], agentboard: Iterable[str]) -> str:
    """Why a model's result on a benchmark does not stand beside the published ones."""
    if name not in summaries:
        return "not played"
    if name not in set(agentboard):
        return "other episodes than AgentBoard's"
    if summaries[name].attempts > 1:
        return f"{summaries[name].attempts} attempts at each episode"
    return f"{summaries[name].episodes} of {published().episodes[name]} episodes"
