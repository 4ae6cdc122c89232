"""Progress that a person can watch: a bar in the terminal and an artifact in the Prefect UI."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Never, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from tqdm import tqdm

SECONDS_BETWEEN_UPDATES = 3.0
"""Of the artifact: each update is a request to Prefect's server."""


class Progress:
    """Counts what a stage has done.

    Attributes:
        done, total: how many of the units are done, and how many there are.
    """

    def __init__(self, bar: "tqdm[Never]", total: int, artifact: UUID) -> None:
        self._bar = bar
        self.total = total
        self.done = 0
        self._artifact = artifact
        self._updated = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """`count` more are done. Moves the bar only, so that it may be called from an event loop."""
        self._bar.update(count)
        self.done += count

    def reach(self, done: int) -> None:
        """`done` are done in all."""
        self.advance(done - self.done)
        self.publish()

    def publish(self) -> None:
        """Let Prefect know, if it is time."""
        now = time.monotonic()
        if now - self._updated > SECONDS_BETWEEN_UPDATES:
            self._updated = now
            update_progress_artifact(self._artifact, progress=self.percent)

    @property
    def percent(self) -> float:
        """How much is done, from 0 to 100."""
        return 100 * min(1.0, self.done / self.total) if self.total else 100.0


def artifact_key(*parts: str) -> str:
    """A key as Prefect allows it: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


@contextmanager
def progress(stage: str, total: int, unit: str, *, bar: bool = True) -> Iterator[Progress]:
    """A progress bar and artifact for one stage.

    Args:
        stage: the stage's name; the artifact's key is `<stage>-progress`.
        total: how many `unit`s there are.
        unit: what is counted, such as `game`.
        bar: False where something else draws one.
    """
    key = artifact_key(stage, "progress")
    artifact = cast("UUID", create_progress_artifact(progress=0.0, key=key, description=f"{total} {unit}s"))
    with tqdm(total=total, desc=stage, unit=unit, dynamic_ncols=True, mininterval=0.5, disable=not bar) as shown:
        counter = Progress(shown, total, artifact)
        yield counter
    update_progress_artifact(artifact, progress=100.0)
