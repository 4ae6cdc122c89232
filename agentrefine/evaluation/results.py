"""What an evaluation leaves in `data/evaluation/<model>/`, beside its episodes: one record for each file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, RootModel

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import BenchmarkSummary, summarise
from agentrefine.files import write_json, write_jsonl


class Summaries(RootModel[dict[str, BenchmarkSummary]]):
    """details.json: a model's summary by benchmark, `{"babyai": {"episodes": 50, "success_rate": {...}, ...}}`."""


class Values(RootModel[dict[str, dict[str, int | float]]]):
    """metrics.json: one number a metric, which DVC shows and compares: `{"babyai": {"success_rate": 0.42, ...}}`."""


class Seconds(RootModel[dict[str, float]]):
    """timing.json: wall-clock seconds that all episodes of a benchmark took together, `{"babyai": 31.4}`."""


class BenchmarksPlayed(BaseModel):
    """benchmarks.json: which benchmarks were played.

    Example: `{"progress": {"babyai": "share of sub-goals"}, "absent": {"jericho": "..."}, "agentboard": []}`

    Attributes:
        progress: what the progress rate measures in each of them, in words.
        absent: why the others were not played.
        agentboard: those whose episodes and labels are AgentBoard's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    progress: dict[str, str]
    absent: dict[str, str]
    agentboard: list[str]


def write_results(
    folder: Path, episodes: Iterable[Episode], benchmarks: BenchmarksPlayed, seconds: Mapping[str, float]
) -> Summaries:
    """Write all files of an evaluation and return the summaries.

    Args:
        folder: `data/evaluation/<model>`.
        episodes: all that were played.
        benchmarks: which benchmarks were played.
        seconds: what each of them took.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    played = list(episodes)
    write_jsonl(folder / "episodes.jsonl", played)
    write_json(folder / "benchmarks.json", benchmarks.model_dump())
    write_json(folder / "timing.json", Seconds({name: round(value, 1) for name, value in seconds.items()}).model_dump())
    return write_summaries(folder, summarise(played))


def write_summaries(folder: Path, summaries: dict[str, BenchmarkSummary]) -> Summaries:
    """Write `details.json`, which holds all, and `metrics.json`, one number a metric."""
    details = Summaries(summaries)
    values = Values({name: summary.values() for name, summary in summaries.items()})
    write_json(folder / "details.json", details.model_dump())
    write_json(folder / "metrics.json", values.model_dump())
    return details
