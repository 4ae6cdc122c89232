"""Reading and writing files: those that stages exchange, typed and never half-written, and those of users.

A user's file is read by one function for each kind (`read_text`, `read_yaml`, `read_records`), so that a byte order
mark, blank lines, Windows line ends and a list in place of lines are read everywhere, and the same faults are reported
in the same sentences.
"""

import codecs
import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from agentrefine.errors import UserError

RecordT = TypeVar("RecordT", bound=BaseModel)

CHUNK = 1 << 20
"""Characters of a JSON list that are read at once."""

MAX_ELEMENT = 64 << 20
"""Characters of the longest element of a JSON list; what is longer is a broken file."""

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[str]]:
    """Open a temporary file beside `path` for text; on success it takes `path`'s place, on failure nothing is left.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with _replacement(path) as temporary, temporary.open("x", encoding="utf-8") as handle:
        yield handle
        handle.flush()
        os.fsync(handle.fileno())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; on success it takes `path`'s place, on failure nothing is left.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with _replacement(path) as temporary:
        temporary.mkdir()
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)


@contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    """A free path beside `path`. What is made there replaces `path`, or is removed when an error is raised."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):  # of killed writers: `path` has one at a time
            _remove(leftover)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    except SafetensorError as error:  # says in words only that a disk is full
        if "No space left" not in str(error):
            raise
        raise _cannot_write(path, OSError(errno.ENOSPC, str(error))) from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """Remove a folder or a file, if there is one."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _cannot_write(path: Path, error: OSError) -> UserError:
    if error.errno == errno.ENOSPC:
        message = f"{path}: the disk is full; free some space and run the same command again."
        return UserError("disk_full", message, file=path)
    message = f"{path}: cannot be written ({error.strerror or error}); make the folder writable and run again."
    return UserError("not_writable", message, file=path)


def write_text(path: Path, text: str) -> None:
    """Write a text atomically; a file that holds it already is left alone."""
    if not path.is_file() or path.read_bytes() != text.encode():
        with atomic_write(path) as handle:
            handle.write(text)


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
    """Stream the records of a JSON-lines file of a stage; blank lines and a byte order mark are skipped.

    Raises:
        UserError: the file is missing, or a line is not a `model`; names the line and the key.
    """
    if not path.is_file():
        message = f"{path}: no such file; run the stage that writes it, or correct the path in params.yaml."
        raise UserError("stage_not_run", message, file=path)
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if line.isspace():
                continue
            try:
                yield model.model_validate_json(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
            except ValidationError as error:
                place = f"{path}, line {number}"
                raise invalid_value(error, place, code="stage_file_broken", file=path, line=number) from error


def read_result(path: Path, model: type[RecordT], stage: str) -> RecordT:
    """A small JSON file that a stage leaves, as a typed value.

    Raises:
        UserError: the file is missing or is not what the stage writes; names the file and the stage.
    """
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{path}: no such file; run the stage that writes it (`dvc repro {stage}`)."
        raise UserError("stage_not_run", message, file=path, stage=stage) from error
    except ValidationError as error:
        remedy = f"Run the stage {stage} again."
        raise invalid_value(error, path, remedy, code="stage_file_broken", file=path, stage=stage) from error


def invalid_value(
    error: ValidationError, place: object, remedy: str = "", /, *, code: str = "", **values: object
) -> UserError:
    """A pydantic error for the user: `prices.yaml: models.m.input: Input should be ...; found 'x'. Correct the key.`

    `place` is where the value stands, `remedy` a last sentence; `code` stands in for what `problem_code` says.
    """
    code = code or problem_code(error)
    return UserError(code, f"{place}: {first_problem(error)} {remedy}".rstrip(), **values, key=problem_key(error))


def first_problem(error: ValidationError, *, with_value: bool = True) -> str:
    """The first finding of a pydantic error as one sentence: which key, what was expected, what was found."""
    finding = error.errors(include_url=False)[0]
    found = repr(finding["input"])
    shown = f"; found {found[:80]}{'...' if len(found) > 80 else ''}" if with_value else ""
    return f"{problem_key(error) or 'the whole value'}: {finding['msg']}{shown}."


def problem_key(error: ValidationError) -> str:
    """The dotted key of what `first_problem` says; empty where it is the whole value."""
    return ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])


def problem_code(error: ValidationError) -> str:
    """The code of a `UserError` for what `first_problem` says."""
    kinds = {"missing": "missing_key", "extra_forbidden": "unknown_key", "json_invalid": "not_json"}
    return kinds.get(error.errors(include_url=False)[0]["type"], "bad_value")


def packaged_path(package: str, *parts: str) -> Path:
    """A data file or folder of this project: `packaged_path("agentrefine.game", "prompts", "instructions.md")`.

    `agentrefine.sources` reads the arguments in the code, so write those that are known as strings.
    """
    return Path(__file__).parent.parent.joinpath(*package.split("."), *parts)


@cache
def packaged_text(package: str, *parts: str) -> str:
    """The text of a data file of this project, named as in `packaged_path`."""
    return packaged_path(package, *parts).read_text(encoding="utf-8")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def short_hash(*parts: str) -> str:
    """Twelve hexadecimal digits that identify the parts in their order: the form of every id in this project."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]


def user_path(given: str | Path) -> Path:
    """A path that a user wrote, with `~` as the home folder.

    Raises:
        UserError: it begins with the home folder of a user that this machine does not know.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        message = f"{given}: the home folder of `~` is not known here; write the whole path."
        raise UserError("unknown_home", message, path=given) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder of a user to fill, as `atomic_folder`, but what is there already is never replaced.

    Raises:
        UserError: there is something at `path`, the disk is full, or the folder cannot be written.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        message = f"{path}: exists already; name another folder, or remove it first."
        raise UserError("already_exists", message, file=path)
    with atomic_folder(path) as folder:
        yield folder


def read_text(path: Path, remedy: str) -> str:
    """The text of a user's file in UTF-8, with or without a byte order mark, with `\\n` for every line end.

    `remedy` says what to do where there is no such file, such as `correct teacher.prices in params.yaml`.

    Raises:
        UserError: the file is missing, cannot be read, or is not UTF-8; names the line.
    """
    with _open(path, remedy) as handle:
        content = handle.read()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _not_utf8(path, line, error) from error


def read_yaml(path: Path, remedy: str, loader: type[yaml.BaseLoader | yaml.SafeLoader] = yaml.SafeLoader) -> Any:  # noqa: ANN401 (any YAML value)
    """The value in a user's YAML file; `remedy` is that of `read_text`, and `loader` makes no objects but YAML's own.

    Raises:
        UserError: as in `read_text`, or the text is not YAML.
    """
    return parse_yaml(read_text(path, remedy), path, loader)


def parse_yaml(text: str, source: str | Path, loader: type[yaml.BaseLoader | yaml.SafeLoader] = yaml.SafeLoader) -> Any:  # noqa: ANN401
    """The value in a YAML text; an error does not quote the text, in which a key may stand.

    Raises:
        UserError: the text is not YAML; names `source` and the line.
    """
    try:
        return yaml.load(text.removeprefix("\ufeff"), loader)  # noqa: S506  (the loaders make no objects)
    except (yaml.YAMLError, RecursionError) as error:
        reason, line = " ".join(str(error).split()), None
        if isinstance(error, yaml.MarkedYAMLError):
            reason = error.problem or reason
            line = error.problem_mark.line + 1 if error.problem_mark else None
        place = f"line {line}: " if line else ""
        message = f"{source}: not valid YAML ({place}{reason}); correct it."
        raise UserError("not_yaml", message, file=source, line=line) from error


class Record(NamedTuple):
    """A JSON value of a user's file, and where it stands, for messages: `data.json, element 3`."""

    place: str
    value: Any


def read_records(path: Path, remedy: str) -> Iterator[Record]:
    """The values of a user's file of JSON: the elements of a list, or one value a line. Blank lines are skipped.

    Memory holds one element, however large the file. `remedy` is that of `read_text`.

    Raises:
        UserError: the file is missing, cannot be read, or is not JSON in UTF-8; names the line or the element.
    """
    with _open(path, remedy) as handle:
        is_list = _first_byte(handle) == b"["
    return _list_elements(path) if is_list else _json_lines(path)


def file_missing(path: str | Path, remedy: str, key: str = "") -> UserError:
    """There is no such file: `remedy` says what to do, and `key` which setting names the file."""
    values = {"key": key} if key else {}
    setting = f"{key}: " if key else ""
    return UserError("file_missing", f"{setting}{path}: no such file; {remedy}.", **values, file=path)


@contextmanager
def _open(path: Path, remedy: str) -> Iterator[IO[bytes]]:
    """A user's file, at its beginning; its byte order mark is none of another encoding."""
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise file_missing(path, remedy) from error
    except IsADirectoryError as error:
        raise UserError("is_folder", f"{path}: is a folder where a file was expected; {remedy}.", file=path) from error
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); {remedy}."
        raise UserError("file_unreadable", message, file=path) from error
    with handle:
        start = handle.read(4)
        handle.seek(0)
        if start.startswith(_UTF16 + _UTF32):
            name = "UTF-32" if start.startswith(_UTF32) else "UTF-16"  # a mark of UTF-32 begins with one of UTF-16
            raise UserError("not_utf8", f"{path}: is {name}; save the file as UTF-8.", file=path, encoding=name)
        yield handle


def _first_byte(handle: IO[bytes]) -> bytes:
    """The first byte that is neither a space nor of a byte order mark; empty where there is none."""
    first = handle.read(max(CHUNK, len(codecs.BOM_UTF8))).removeprefix(codecs.BOM_UTF8).lstrip()
    while not first and (chunk := handle.read(CHUNK)):
        first = chunk.lstrip()
    return first[:1]


def _not_utf8(path: Path, line: int | None, error: UnicodeDecodeError) -> UserError:
    place = f"{path}, line {line}" if line else f"{path}"
    byte = f"0x{error.object[error.start]:02x}"
    message = f"{place}: not UTF-8 (byte {byte}); save the file as UTF-8."
    return UserError("not_utf8", message, file=path, line=line, byte=byte)


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            place = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield Record(place, json.loads(text))
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, error) from error
            except (ValueError, RecursionError) as error:
                message = f"{place}: not JSON ({_reason(error)}); expected a JSON list or one object a line."
                raise UserError("not_json", message, file=path, line=number) from error


def _list_elements(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as handle:
        elements = _Elements(handle, path)
        elements.skip("[")
        number = 0
        while elements.next_character() != "]":
            if number:
                elements.skip(",")
            number += 1
            yield Record(f"{path}, element {number}", elements.element(number))
        elements.skip("]")
        if found := elements.next_character():
            message = f"{path}: expected nothing after the list; fix the file."
            raise UserError("not_json", message, file=path, found=found)


class _Elements:
    """A window on the text of a JSON list that moves from one element to the next."""

    def __init__(self, handle: IO[str], path: Path) -> None:
        self.handle = handle
        self.path = path
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
                incomplete = isinstance(error, json.JSONDecodeError) and len(self.text) - self.position <= MAX_ELEMENT
                if not (incomplete and self._read_more()):
                    message = f"{self.path}, element {number}: not JSON ({_reason(error)}); fix it."
                    raise UserError("not_json", message, file=self.path, element=number) from error
            else:
                return value

    def skip(self, character: str) -> None:
        """Move behind `character`, which has to come next."""
        found = self.next_character()
        if found != character:
            shown = repr(found) if found else "the end of the file"
            message = f"{self.path}: expected {character!r} between the list's elements, found {shown}; fix the file."
            raise UserError("not_json", message, file=self.path, expected=character, found=found)
        self.position += 1

    def next_character(self) -> str:
        """The next character that is not a space; empty at the end of the file."""
        while True:
            while self.text[self.position : self.position + 1].isspace():
                self.position += 1
            if self.position < len(self.text) or not self._read_more():
                return self.text[self.position : self.position + 1]

    def _read_more(self) -> bool:
        """As much again as is left, at least a chunk: a long element is tried a logarithmic number of times."""
        rest = self.text[self.position :]
        try:
            chunk = self.handle.read(max(CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            raise _not_utf8(self.path, None, error) from error
        self.text, self.position = rest + chunk, 0
        return bool(chunk)


def _reason(error: ValueError | RecursionError) -> str:
    """What is wrong, without a position: it counts from the window's beginning, not from the file's."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)
