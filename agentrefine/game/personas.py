"""Personas: one sentence each, the seed of a script (Persona Hub's line format, `{"persona": "..."}`)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agentrefine.errors import UserError
from agentrefine.files import Record, read_records, short_hash
from agentrefine.game.text import is_unicode


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
    """Stream the personas of a file, each distinct text once, at most `limit` of them.

    The file holds one JSON object a line, or a JSON list of objects. Keys beside `persona` are ignored, so a Persona
    Hub file works as it is.

    Raises:
        UserError: the file is missing, or a record is not a JSON object with a non-empty `persona`; names its place.
    """
    records = read_records(path, "set personas.path in params.yaml to a file that exists")
    return islice(_distinct(map(_persona, records)), limit)


def _distinct(personas: Iterable[Persona]) -> Iterator[Persona]:
    seen: set[str] = set()
    for persona in personas:
        if persona.id not in seen:
            seen.add(persona.id)
            yield persona


def _persona(record: Record) -> Persona:
    text = record.value.get("persona") if isinstance(record.value, dict) else None
    if not isinstance(text, str) or not text.strip():
        message = (
            f'{record.place}: expected an object with a text under `persona`, such as {{"persona": "A nurse who ..."}};'
            " correct or remove it."
        )
        raise UserError("bad_record", message, place=record.place)
    if not is_unicode(text):
        message = f"{record.place}: the text holds half of a surrogate pair; correct or remove it."
        raise UserError("bad_record", message, place=record.place)
    text = " ".join(text.split())
    return Persona(id=short_hash("persona", text), text=text)
