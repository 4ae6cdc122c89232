"""How long the stages took, in `data/journal/timing/`: apart from what they leave, so equal runs leave equal files.

A time stands under a hash of what its stage left. So results that DVC brings back have their own time or none, never
that of others. Evaluation is not among the stages: it writes a `timing.json` by benchmark.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from agentrefine.evaluation.metrics.summary import Seconds
from agentrefine.files import read_result, sha256_file, short_hash, write_json
from agentrefine.game.counts import UNKNOWN

TIMES = Path("data/journal/timing")
RESULTS = {
    "synthesis": Path("data/synthesis/metrics.json"),
    "verification": Path("data/verification/metrics.json"),
    "repair": Path("data/repair/metrics.json"),
    "base_model": Path("models/base/card.json"),
    "quality_gate": Path("reports/quality_gate/result.json"),
}
"""The stages without a name that are timed, each with the small file that identifies what it left."""


@contextmanager
def timed(stage: str, result: Path) -> Iterator[None]:
    """Keep how long the block took as the time of a stage that leaves `result`; nothing where an error ends it.

    Of several runs with one result the longest counts: the others had answers or checkpoints of earlier ones.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    began = time.monotonic()
    yield
    seconds = round(time.monotonic() - began, 1)
    known = stage_seconds(Path(), stage, result)
    if known == UNKNOWN or known < seconds:
        write_json(_file(Path(), stage, result), Seconds({stage: seconds}).model_dump())


def stage_seconds(root: Path, stage: str, result: Path) -> float | Literal["unknown"]:
    """Wall-clock seconds in which a stage made what lies at `result` below `root`; `UNKNOWN` where they were not kept.

    Raises:
        UserError: the file of the time is broken.
    """
    if not (root / result).is_file():
        return UNKNOWN
    file = _file(root, stage, result)
    return read_result(file, Seconds, stage).root[stage] if file.is_file() else UNKNOWN


def tuning_result(variant: str) -> Path:
    """The small file that identifies what the tuning of a variant left."""
    return Path("reports/tuning") / variant / "metrics.json"


def data_set_result(stage: Literal["mix", "on_policy"], name: str) -> Path:
    """The small file that identifies a data set of one of these stages."""
    return Path("data") / stage / name / "metrics.json"


def _file(root: Path, stage: str, result: Path) -> Path:
    return root / TIMES / f"{stage}-{short_hash(sha256_file(root / result))}.json"
