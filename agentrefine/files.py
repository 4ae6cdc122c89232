"""Reading and writing the files that stages exchange: streamed, typed, and never half-written."""

import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from agentrefine.errors import UserError

RecordT = TypeVar("RecordT", bound=BaseModel)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[str]]:
    """Open a temporary file beside `path` for text; on success it takes `path`'s place, on failure nothing is left.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise _cannot_write(path, error) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; on success it takes `path`'s place, on failure nothing is left.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _cannot_write(path, error) from error
    except SafetensorError as error:  # tells of a full disk in words only
        shutil.rmtree(temporary, ignore_errors=True)
        if "No space left" in str(error):
            raise _cannot_write(path, OSError(errno.ENOSPC, str(error))) from error
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove what writers of `path` left beside it when they were killed; a path has one writer at a time."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOSPC:
        return UserError(f"{path}: the disk is full; free some space and run the same command again.")
    return UserError(f"{path}: cannot be written ({error.strerror or error}); make the folder writable and run again.")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically, with a final newline."""
    with atomic_write(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


def write_jsonl(path: Path, records: Iterable[BaseModel]) -> int:
    """Write one JSON object a line, atomically and streamed. Returns the number of records."""
    count = 0
    with atomic_write(path) as handle:
        for record in records:
            handle.write(record.model_dump_json(by_alias=True) + "\n")
            count += 1
    return count


def read_jsonl(path: Path, model: type[RecordT]) -> Iterator[RecordT]:
    """Stream the records of a JSON-lines file.

    Raises:
        UserError: the file is missing, or a line is not a `model`; names the line and the key.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage that writes it, or correct the path in params.yaml.")
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                yield model.model_validate_json(line)
            except ValidationError as error:
                raise UserError(f"{path}, line {number}: {first_problem(error)}") from error


def first_problem(error: ValidationError, *, with_value: bool = True) -> str:
    """The first finding of a pydantic error as one sentence: which key, what was expected, what was found."""
    finding = error.errors(include_url=False)[0]
    told = f"{'.'.join(str(part) for part in finding['loc']) or 'the whole value'}: {finding['msg']}"
    if not with_value:
        return f"{told}."
    found = repr(finding["input"])
    return f"{told}; found {found[:80]}{'...' if len(found) > 80 else ''}."


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def short_hash(*parts: str) -> str:
    """Twelve hexadecimal digits that identify the parts in their order: the form of every id in this project."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]
