"""Checkpoints that can be trusted: sealed when they are whole, verified before they are used, bounded in number.

A checkpoint is a folder `checkpoint-<step>` as transformers' Trainer writes it. Its seal is written last and holds the
size and the digest of every file, so one that was cut off, by a kill or a full disk, is told from one that is whole.
"""

import json
import logging
import shutil
from pathlib import Path

import xxhash
from pydantic import BaseModel, ValidationError
from transformers.trainer_utils import rotate_checkpoints

from agentrefine.files import write_json

SEAL = "seal.json"

logger = logging.getLogger(__name__)


class SealedFile(BaseModel):
    """A file of a checkpoint: its bytes and their XXH3 digest of 128 bits."""

    size: int
    xxh3: str


class Seal(BaseModel):
    """The files of a checkpoint by their names."""

    files: dict[str, SealedFile]


def seal(checkpoint: Path) -> None:
    """Write a checkpoint's seal; all its files must have been written.

    Raises:
        UserError: the disk is full.
    """
    files = {
        str(file.relative_to(checkpoint)): SealedFile(size=file.stat().st_size, xxh3=_digest(file))
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != SEAL
    }
    write_json(checkpoint / SEAL, Seal(files=files).model_dump())


def flaw(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where it is as it was sealed."""
    try:
        sealed = Seal.model_validate(json.loads((checkpoint / SEAL).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return "it was not finished"
    except (ValidationError, ValueError):
        return f"its {SEAL} is damaged"
    for name, expected in sealed.files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected.size:
            return f"{name} has {file.stat().st_size} bytes instead of {expected.size}"
        if _digest(file) != expected.xxh3:
            return f"{name} has changed"
    return None


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint of a folder; those after it that are not whole are removed, with a warning."""
    for checkpoint in sorted(folder.glob("checkpoint-[0-9]*"), key=_step, reverse=True):
        found = flaw(checkpoint)
        if found is None:
            return checkpoint
        logger.warning("%s cannot be used (%s) and is removed; tuning goes on from an earlier one.", checkpoint, found)
        shutil.rmtree(checkpoint)
    return None


def rotate(folder: Path, kept: int, best: str | None) -> None:
    """Remove the oldest checkpoints of a folder but the last `kept` ones and the best."""
    rotate_checkpoints(str(folder), save_total_limit=kept, best_model_checkpoint=best)


def remove_others(folder: Path, key: str) -> None:
    """Remove the checkpoints of tunings with other settings, but the last: a changed setting may be changed back."""
    others = {found.parent for found in folder.glob("*/checkpoint-*") if found.parent.name != key}
    for other in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        logger.warning("%s holds checkpoints of earlier settings or data and is removed.", other)
        shutil.rmtree(other)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _digest(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
