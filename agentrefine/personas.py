"""Personas: one sentence each, the seed of a script (Persona Hub's line format, `{"persona": "..."}`)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agentrefine.errors import UserError
from agentrefine.files import short_hash


@dataclass(frozen=True)
class Persona:
    """One persona.

    Attributes:
        id: derived from the text alone, so that the same sentence is the same persona in every file.
        text: one sentence, in any language.
    """

    id: str
    text: str


def load_personas(path: Path, limit: int | None = None) -> Iterator[Persona]:
    """Stream the personas of a JSON-lines file, each distinct text once, at most `limit` of them.

    Keys beside `persona` are ignored, so a Persona Hub file works as it is.

    Raises:
        UserError: the file is missing or a line is not a JSON object with a non-empty `persona`; names the line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such personas file; set personas.path in params.yaml to a file that exists.")
    return islice(_distinct(path), limit)


def _distinct(path: Path) -> Iterator[Persona]:
    seen: set[str] = set()
    with path.open(encoding="utf-8", errors="surrogateescape") as handle:
        for number, line in enumerate(handle, start=1):
            persona = _parse(line, f"{path}, line {number}")
            if persona.id not in seen:
                seen.add(persona.id)
                yield persona


def _parse(line: str, where: str) -> Persona:
    expected = 'expected one JSON object a line, such as {"persona": "A nurse who ..."}; correct or remove the line.'
    try:
        text = json.loads(line)["persona"]
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: {expected}") from error
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: `persona` must be a non-empty string; {expected}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: not UTF-8; save the file as UTF-8.") from error
    text = " ".join(text.split())
    return Persona(id=short_hash("persona", text), text=text)
