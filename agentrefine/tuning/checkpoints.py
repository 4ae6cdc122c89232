"""Checkpoints: where they lie, when one may be used, and at which one an interrupted tuning resumes.

Each has a manifest of its files, written last. Only a checkpoint that agrees with its manifest is used. Those of a
tuning lie in a folder named after all that changes weights, so that another tuning never resumes at them.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import xxhash
from accelerate.utils import broadcast_object_list
from pydantic import BaseModel, ValidationError
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import rotate_checkpoints

from agentrefine.files import write_json
from agentrefine.tuning.distributed import is_first_process

MANIFEST = "manifest.json"
"""The file of a checkpoint that lists all others; it is written last."""

logger = logging.getLogger(__name__)


class ManifestEntry(BaseModel):
    """A file of a checkpoint: its bytes and their XXH3 digest of 128 bits.

    Example: `{"size": 3491232, "xxh3": "5f0c..."}`
    """

    size: int
    xxh3: str


class Manifest(BaseModel):
    """manifest.json: the files of a checkpoint by their names.

    Example: `{"files": {"model.safetensors": {"size": 3491232, "xxh3": "5f0c..."}, ...}}`
    """

    files: dict[str, ManifestEntry]


def own_folder(root: Path, key: Callable[[], str]) -> str:
    """A tuning's folder below `root`; the first process computes its key and sends the folder to the others."""
    folder = [""]
    if is_first_process():
        name = key()
        remove_others(root, name)
        folder = [str(root / name)]
    return str(broadcast_object_list(folder)[0])


def remove_others(root: Path, key: str) -> None:
    """Remove the checkpoints of tunings with other settings, but the last: a changed setting may be changed back."""
    others = {found.parent for found in root.glob("*/checkpoint-*") if found.parent.name != key}
    for other in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        logger.warning("%s holds checkpoints of earlier settings or data and is removed.", other)
        shutil.rmtree(other)


def finish(folder: Path, step: int, *, kept: int, best: str | None) -> None:
    """List the files of the checkpoint of `step`, which are all written; keep the newest `kept` and the best one.

    Raises:
        UserError: the disk is full.
    """
    checkpoint = folder / f"checkpoint-{step}"
    files = {
        str(file.relative_to(checkpoint)): ManifestEntry(size=file.stat().st_size, xxh3=_digest(file))
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_json(checkpoint / MANIFEST, Manifest(files=files).model_dump())
    rotate_checkpoints(str(folder), save_total_limit=kept, best_model_checkpoint=best)


def resume_at(folder: Path, patience: int | None, max_steps: int | None) -> Path | None:
    """The checkpoint to resume at, the same for every process; None where there is none.

    A tuning that had stopped early, or had taken all of its steps, takes the last ones again, so that it stops again:
    the trainer takes one step at least.

    Args:
        folder: of the checkpoints.
        patience: evaluations without improvement after which a tuning stops; None where it does not.
        max_steps: after so many a tuning stops; None where it ends with an epoch.
    """
    found: list[Path | None] = [None]
    if is_first_process():
        while (last := newest(folder)) and _had_ended(last, patience, max_steps):
            shutil.rmtree(last)
        found = [last]
    return broadcast_object_list(found)[0]  # type: ignore[no-any-return]


def _had_ended(checkpoint: Path, patience: int | None, max_steps: int | None) -> bool:
    stopped = patience is not None and _evaluations_without_improvement(checkpoint) >= patience
    return stopped or (max_steps is not None and step_of(checkpoint) >= max_steps)


def _evaluations_without_improvement(checkpoint: Path) -> int:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    kept = state["stateful_callbacks"].get(EarlyStoppingCallback.__name__)
    return int(kept["attributes"]["early_stopping_patience_counter"]) if kept else 0


def why_invalid(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where it is as its manifest says."""
    try:
        manifest = Manifest.model_validate_json((checkpoint / MANIFEST).read_bytes())
    except FileNotFoundError:
        return "it was not finished"
    except ValidationError:
        return f"its {MANIFEST} is damaged"
    for name, expected in manifest.files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected.size:
            return f"{name} has {file.stat().st_size} bytes instead of {expected.size}"
        if _digest(file) != expected.xxh3:
            return f"{name} has changed"
    return None


def newest(folder: Path) -> Path | None:
    """The last valid checkpoint of a folder; those after it are removed, with a warning."""
    for checkpoint in sorted(folder.glob("checkpoint-[0-9]*"), key=step_of, reverse=True):
        reason = why_invalid(checkpoint)
        if reason is None:
            return checkpoint
        logger.warning("%s cannot be used (%s) and is removed; tuning resumes at an earlier one.", checkpoint, reason)
        shutil.rmtree(checkpoint)
    return None


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint, by its folder's name."""
    return int(checkpoint.name.rpartition("-")[2])


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, xxhash.xxh3_128).hexdigest()
