"""Presets: YAML files whose nested keys replace those of params.yaml, whose comments stay."""

import io
import json
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import CommentToken

from agentrefine.errors import UserError, unknown_name
from agentrefine.files import atomic_write, read_text
from agentrefine.params import Params, load_params, parse_params
from agentrefine.params.base import Section, note_of_default

Values = MutableMapping[str, Any]


class Change(NamedTuple):
    """A value that a preset changes; `old` or `new` is None where the key is not there.

    They are equal where the file gets a key that it left out, with its default. `note` is what the preset says of it.
    """

    key: str
    old: str | None
    new: str | None
    note: str = ""

    def __str__(self) -> str:
        note = f"  # {self.note}" if self.note else ""
        if self.old is None:
            return f"{self.key}: {self.new} (new){note}"
        if self.old == self.new:
            return f"{self.key}: {self.new} (as by default, and now in the file){note}"
        return f"{self.key}: {self.old} -> {'removed' if self.new is None else self.new}{note}"


def preset_names(folder: Path) -> list[str]:
    """The names of the presets in a folder, in alphabetical order."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def apply_preset(name: str, params_file: Path, folder: Path) -> list[Change]:
    """Write a preset's values into params.yaml, all of them or, where they do not fit, none.

    Sections are merged key by key; a map whose keys are names, such as `tuning.variants`, is replaced whole: what the
    preset does not list is not tuned. What a comment says of the default alone goes with it; the other comments and
    the blank lines stay. The file has the form in which DVC writes it.

    Args:
        name: of a file `<name>.yaml` in `folder`.
        params_file: params.yaml.
        folder: of the presets.

    Returns:
        What changed, defaults included, in the order of the parameters.

    Raises:
        UserError: there is no such preset, it is not valid YAML, it has an unknown key, or
            params.yaml would not be valid with it.
    """
    known = preset_names(folder)
    if name not in known:
        raise unknown_name(str(folder), "preset", name, known)
    file = folder / f"{name}.yaml"
    # The form in which DVC writes params.yaml, so that an experiment after a preset changes its own lines only.
    yaml = YAML()
    yaml.default_flow_style = False
    preset, values = _read(yaml, file), _read(yaml, params_file)
    written, notes = _keys(values), dict(_notes(preset, ""))
    before = _leaves(load_params(params_file))
    _merge(values, preset, Params, "", file)
    text = io.StringIO()
    yaml.dump(values, text)
    after = _leaves(parse_params(text.getvalue(), f"{params_file} with {file}"))
    with atomic_write(params_file) as handle:
        handle.write(text.getvalue())
    new = _keys(values) - written
    keys = [*after, *(key for key in before if key not in after)]
    changes = [
        Change(key, before.get(key), after.get(key), _nearest(notes, key))
        for key in keys
        if before.get(key) != after.get(key) or key in new
    ]
    # What is added to an empty map, or removed from one, says enough.
    return [change for change in changes if "{}" not in (change.old, change.new)]


def values_beside(name: str, params_file: Path, folder: Path) -> list[Change]:
    """What params.yaml holds beside a preset's values and not as by default (`old`), such as another preset's values.

    Raises:
        UserError: a file that cannot be used.
    """
    given = tuple(f"{key}." for key in _keys(_read(YAML(), folder / f"{name}.yaml")))
    default, present = _leaves(Params()), _leaves(load_params(params_file))
    return [
        Change(key, default.get(key), value)
        for key, value in present.items()
        if value != default.get(key) and not f"{key}.".startswith(given)
    ]


def _read(yaml: YAML, file: Path) -> Values:
    try:
        values = yaml.load(read_text(file, "run from the project's folder"))
    except YAMLError as error:
        line, problem = None, " ".join(str(error).split())
        if isinstance(error, MarkedYAMLError) and error.problem_mark:
            line = error.problem_mark.line + 1
            problem = f"line {line}: {error.problem}"
        raise UserError("not_yaml", f"{file}: not valid YAML ({problem}); correct it.", file=file, line=line) from error
    if not isinstance(values, MutableMapping):
        sentence = f"{file}: expected sections with keys, as params.yaml has them; correct it."
        raise UserError("not_a_mapping", sentence, file=file)
    return values


def _merge(values: Values, preset: Values, section: type[Section], place: str, file: Path) -> None:
    """Put the preset's values in place, section by section."""
    for key, new in preset.items():
        name = f"{place}.{key}" if place else str(key)
        if key not in section.model_fields:
            raise UserError("unknown_key", f"{file}: {name} is no key of params.yaml; correct it.", file=file, key=name)
        if (part := section.parts().get(key)) is None:
            if new != values.get(key):
                _drop_note(values, key, note_of_default(section.model_fields[key]))
            _put(values, key, _in_lines(new), apart=not place)
        elif isinstance(new, MutableMapping):
            inner = values.get(key, CommentedMap())
            _merge(inner, new, part, name, file)
            if key not in values:
                _put(values, key, inner, apart=not place)
        else:
            sentence = f"{file}: {name} is a section of params.yaml; list the keys that change under it."
            raise UserError("not_a_mapping", sentence, file=file, key=name)


def _put(values: Values, key: str, new: object, *, apart: bool) -> None:
    """Set a value and leave blank lines behind it where they are; a new section stands `apart`, behind a blank line."""
    place = key if key in values else next(reversed([*values]), None)
    following = "" if place is None else _cut_blank_lines(values, place)
    if place not in (key, None) and apart:
        _add_blank_lines(values, place, following or "\n")
        following = ""
    values[key] = new
    if following:
        _add_blank_lines(values, key, following)


def _cut_blank_lines(values: Values, key: str) -> str:
    """Take out the blank lines behind a value, with the comments behind them, which are of what follows."""
    place, last, number = _end(values, key)
    token = (place.ca.items.get(last) or [None] * 4)[number]
    if token is None or "\n\n" not in token.value:
        return ""
    comment, _, following = token.value.partition("\n\n")
    token.value = f"{comment}\n"
    return f"\n{following}"


def _add_blank_lines(values: Values, key: str, following: str) -> None:
    """Put blank lines behind a value."""
    place, last, number = _end(values, key)
    tokens = place.ca.items.setdefault(last, [None] * 4)
    if tokens[number] is None:
        tokens[number] = CommentToken("\n", CommentMark(0), None)
    tokens[number].value += following


def _end(values: Any, key: Any) -> tuple[CommentedMap | CommentedSeq, Any, int]:  # noqa: ANN401 (ruamel's)
    """The collection, key and number under which ruamel keeps what stands behind a value."""
    while isinstance(values[key], CommentedMap | CommentedSeq) and values[key] and not values[key].fa.flow_style():
        values = values[key]
        key = next(reversed(values)) if isinstance(values, CommentedMap) else len(values) - 1
    return values, key, 2 if isinstance(values, CommentedMap) else 0


def _notes(values: Values, place: str) -> Iterator[tuple[str, str]]:
    """The comments beside a preset's values, by dotted key."""
    for key, value in values.items():
        name = f"{place}.{key}" if place else str(key)
        tokens = values.ca.items.get(key) if isinstance(values, CommentedMap) else None
        if tokens and tokens[2]:
            yield name, tokens[2].value.partition("\n")[0].lstrip("# ").strip()
        if isinstance(value, MutableMapping):
            yield from _notes(value, name)


def _nearest(notes: Mapping[str, str], key: str) -> str:
    """The comment of a key or of the innermost map around it that has one."""
    while key and key not in notes:
        key = key.rpartition(".")[0]
    return notes.get(key, "")


def _drop_note(values: Values, key: str, note: str) -> None:
    """Take out of a value's comment what is true of the default only."""
    comments = values.ca.items.get(key) if note and isinstance(values, CommentedMap) else None
    for comment in filter(None, comments or ()):
        comment.value = comment.value.replace(f"; {note}", "")


def _in_lines(value: object) -> object:
    """A value whose lists are written an item a line."""
    if isinstance(value, MutableMapping):
        for key, inner in value.items():
            value[key] = _in_lines(inner)
    return CommentedSeq(value) if isinstance(value, list) else value


def _leaves(params: Params) -> dict[str, str]:
    """Every value by its dotted key, as JSON."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in _values(params.model_dump(), "")}


def _keys(values: Values) -> set[str]:
    """The dotted keys of the values that a file holds."""
    return {key for key, _ in _values(values, "")}


def _values(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, MutableMapping) and value:
        for key, inner in value.items():
            yield from _values(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
