"""The records of foreign files, one at a time: JSON lists, JSON lines and parquet of any size."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from agentrefine.errors import UserError

CHUNK = 1 << 20
"""Characters that are read at once."""

LONGEST = 64 << 20
"""Characters of the longest record of a list; what is longer is a broken file."""


class Record(NamedTuple):
    """A record and where it stands, for messages: `data.json, element 3`."""

    place: str
    value: Any


def read_records(file: Path) -> Iterator[Record]:
    """The records of a `.parquet` file, a JSON list, or a file with one JSON value a line.

    Memory holds one record (parquet: one batch of rows), however large the file.

    Raises:
        UserError: the file is missing, or not what its ending or its first character says; names line or element.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; correct the path.")
    if file.suffix == ".parquet":
        return _parquet(file)
    return _json_list(file) if _first_character(file) == "[" else _json_lines(file)


def _first_character(file: Path) -> str:
    with file.open(encoding="utf-8-sig", errors="replace") as handle:
        while text := handle.read(CHUNK):
            if text.strip():
                return text.lstrip()[0]
    return ""


def _json_lines(file: Path) -> Iterator[Record]:
    with file.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            place = f"{file}, line {number}"
            if line.strip():
                try:
                    yield Record(place, json.loads(line.decode("utf-8-sig")))
                except (ValueError, RecursionError) as error:
                    raise UserError(
                        f"{place}: not JSON ({error}); expected a JSON list or one object a line."
                    ) from error


def _json_list(file: Path) -> Iterator[Record]:
    with file.open(encoding="utf-8-sig") as handle:
        elements = _Elements(handle, file)
        elements.skip("[")
        if elements.next_character() == "]":
            return
        number = 1
        while True:
            yield Record(f"{file}, element {number}", elements.element(number))
            if elements.next_character() == "]":
                return
            elements.skip(",")
            number += 1


class _Elements:
    """A window on the text of a JSON list that moves from one element to the next."""

    def __init__(self, handle: IO[str], file: Path) -> None:
        self.handle = handle
        self.file = file
        self.text = ""
        self.position = 0
        self.decoder = json.JSONDecoder()

    def element(self, number: int) -> Any:  # noqa: ANN401 (any JSON value)
        """The element at the window's beginning."""
        self.next_character()
        while True:
            try:
                value, self.position = self.decoder.raw_decode(self.text, self.position)
            except (ValueError, RecursionError) as error:
                incomplete = isinstance(error, json.JSONDecodeError) and len(self.text) - self.position <= LONGEST
                if not (incomplete and self._read_more()):
                    raise UserError(f"{self.file}, element {number}: not JSON ({_reason(error)}); mend it.") from error
            else:
                return value

    def skip(self, character: str) -> None:
        """Move behind `character`, which has to come next."""
        found = self.next_character()
        if found != character:
            raise UserError(
                f"{self.file}: expected {character!r} between the list's elements, found "
                f"{repr(found) if found else 'the end of the file'}; mend the file."
            )
        self.position += 1

    def next_character(self) -> str:
        """The next character that is not a space; empty at the end of the file."""
        while True:
            while self.position < len(self.text) and self.text[self.position].isspace():
                self.position += 1
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """As much again as is left, at least a chunk: a long element is tried a logarithmic number of times."""
        rest = self.text[self.position :]
        try:
            chunk = self.handle.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            raise UserError(f"{self.file}: not UTF-8 ({error.reason}); convert the file.") from error
        self.text, self.position = rest + chunk, 0
        return bool(chunk)


def _reason(error: ValueError | RecursionError) -> str:
    """What is wrong, without a position: it counts from the window's beginning, not from the file's."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _parquet(file: Path) -> Iterator[Record]:
    try:
        with pq.ParquetFile(file) as opened:
            number = 0
            for batch in opened.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"{file}, row {number}", row)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read as parquet ({error}); fetch it again.") from error
