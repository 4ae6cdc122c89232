"""What a person can watch of a stage: a bar in the terminal, artifacts in the Prefect UI, and warnings in the log."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Never, cast
from uuid import UUID

from prefect import get_client, get_run_logger, runtime
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from tqdm import tqdm

from agentrefine.evaluation.episodes import Episode, count_replies
from agentrefine.evaluation.metrics import BenchmarkSummary
from agentrefine.llm.spending import dollars
from agentrefine.report.tables import percent

KEY = "progress"
"""The key of every run's progress: the list of artifacts shows the latest of each key."""
SECONDS_BETWEEN_UPDATES = 3.0
"""Seconds between updates of the artifact, at least; each is a request to Prefect's server."""


class Progress:
    """Counts what a stage has done: `done` units of `total`."""

    def __init__(self, bar: "tqdm[Never]", total: int, artifact: UUID) -> None:
        self._bar = bar
        self.total = total
        self.done = 0
        self._artifact = artifact
        self._updated = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """`count` more are done: move the bar and, if it is time, the artifact."""
        self._bar.update(count)
        self.done += count
        now = time.monotonic()
        if now - self._updated > SECONDS_BETWEEN_UPDATES:
            self._updated = now
            percent_done = 100 * min(1.0, self.done / self.total) if self.total else 100.0
            update_progress_artifact(self._artifact, progress=percent_done)

    def reach(self, done: int) -> None:
        """`done` are done in all."""
        self.advance(done - self.done)


@contextmanager
def progress(stage: str, total: int, unit: str, *, bar: bool = True) -> Iterator[Progress]:
    """A progress bar, unless something else draws one, and the run's progress artifact, for a stage's `unit`s.

    A run has one such artifact; where it counts one thing after another, it shows the present one.
    """
    artifact = _artifact_of_run(stage if unit == "percent" else f"{stage}: {total:,} {unit}s")
    with tqdm(total=total, desc=stage, unit=unit, dynamic_ncols=True, mininterval=0.5, disable=not bar) as shown:
        yield Progress(shown, total, artifact)
    update_progress_artifact(artifact, progress=100.0)


def _artifact_of_run(description: str) -> UUID:
    """The present run's progress artifact, at 0 percent."""
    run = runtime.flow_run.id
    if run is not None:
        own = ArtifactFilter(key=ArtifactFilterKey(any_=[KEY]), flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
        with get_client(sync_client=True) as client:
            found = client.read_artifacts(artifact_filter=own, limit=1)
        if found:
            update_progress_artifact(found[0].id, progress=0.0, description=description)
            return found[0].id
    return cast("UUID", create_progress_artifact(progress=0.0, key=KEY, description=description))


def show_rates(model: str, summaries: Mapping[str, BenchmarkSummary]) -> None:
    """Keep what a model reached as a table in the Prefect UI."""
    create_table_artifact(
        key=_artifact_key("evaluation", model),
        description=f"{model} on the held-out benchmarks, in percent with 95% intervals",
        table=[
            {"benchmark": name, "success": percent(summary.success_rate), "progress": percent(summary.progress_rate)}
            for name, summary in summaries.items()
        ],
    )


def show_episodes(model: str, benchmark: str, episodes: Sequence[Episode], max_new_tokens: int, cost: float) -> None:
    """Log what a benchmark's episodes have cost, in US dollars, and which say less of the model than they seem to.

    These are cut replies or histories, and a simulator that died.
    """
    logger = get_run_logger()
    place = f"{model} on {benchmark}"
    counts = count_replies(episodes)
    if counts.empty or counts.cut:
        logger.warning(
            "%s: of %d replies %d were cut at max_new_tokens (%d) and %d were empty, thoughts apart; "
            "each without an action is a format error. Raise the limit, or turn thinking down (docs/teacher.md)",
            place, counts.replies, counts.cut, max_new_tokens, counts.empty,
        )  # fmt: skip
    if full := sum(episode.stop == "context full" for episode in episodes):
        logger.warning(
            "%s: %d of %d episodes ended because not even their opening fits into the model's context",
            place, full, len(episodes),
        )  # fmt: skip
    cut = [max(step.turns_cut for step in episode.steps) for episode in episodes if episode.steps]
    if any(cut):
        logger.warning(
            "%s: the context was full in %d of %d episodes; the oldest turns, up to %d, were left out",
            place, sum(turns > 0 for turns in cut), len(episodes), max(cut),
        )  # fmt: skip
    for episode in episodes:
        if episode.restarts:
            ended = f"failed again: {episode.error}" if episode.error else "was played to its end"
            logger.warning("%s: the simulator died; it was started again, and the episode %s", episode.id, ended)
    if cost:
        logger.info("%s: %s for %d episodes", place, dollars(cost), len(episodes))


def _artifact_key(*parts: str) -> str:
    """A key as Prefect allows it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
