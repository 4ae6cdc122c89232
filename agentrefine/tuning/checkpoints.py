"""Checkpoints of an interrupted tuning: each has a manifest of its files, and only one that agrees with it is used."""

import hashlib
import json
import logging
import shutil
from pathlib import Path

import xxhash
from pydantic import BaseModel, ValidationError

from agentrefine.files import write_json

MANIFEST = "manifest.json"
"""The file of a checkpoint that lists all others; it is written last."""

logger = logging.getLogger(__name__)


class ManifestEntry(BaseModel):
    """A file of a checkpoint: its bytes and their XXH3 digest of 128 bits."""

    size: int
    xxh3: str


class Manifest(BaseModel):
    """The files of a checkpoint by their names."""

    files: dict[str, ManifestEntry]


def write_manifest(checkpoint: Path) -> None:
    """List the files of a checkpoint, all of which must have been written.

    Raises:
        UserError: the disk is full.
    """
    files = {
        str(file.relative_to(checkpoint)): ManifestEntry(size=file.stat().st_size, xxh3=_digest(file))
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_json(checkpoint / MANIFEST, Manifest(files=files).model_dump())


def why_invalid(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where it is as its manifest says."""
    try:
        manifest = Manifest.model_validate(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return "it was not finished"
    except (ValidationError, ValueError):
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


def remove_others(folder: Path, key: str) -> None:
    """Remove the checkpoints of tunings with other settings, but the last: a changed setting may be changed back."""
    others = {found.parent for found in folder.glob("*/checkpoint-*") if found.parent.name != key}
    for other in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        logger.warning("%s holds checkpoints of earlier settings or data and is removed.", other)
        shutil.rmtree(other)


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint, by its folder's name."""
    return int(checkpoint.name.rpartition("-")[2])


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, xxhash.xxh3_128).hexdigest()
