"""The one exception that a user is meant to read."""

from collections.abc import Collection
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can fix: a bad file, a wrong parameter, an unreachable server, a full disk.

    The message is one clear sentence that names the file, the line or key, what was expected and what to do.
    Every command prints it without a traceback and exits with a non-zero status.

    Example: `UserError("not_utf8", f"{path}, line {line}: not UTF-8; save the file as UTF-8.", file=path, line=line)`

    Attributes:
        code: what is wrong, in snake case; stable, so that programs and tests need not read the sentence.
        values: what the sentence names, such as `file`, `line`, `key` or `value`; never a secret.
    """

    def __init__(self, code: str, message: str, **values: object) -> None:
        super().__init__(message)
        self.code = code
        self.values = values

    def __reduce__(self) -> tuple[object, ...]:
        """As it crosses the border of a process: with its code and values."""
        return _restored, (type(self), self.code, str(self), self.values)


def _restored(kind: type[UserError], code: str, message: str, values: dict[str, object]) -> UserError:
    error = kind.__new__(kind, message)
    error.code, error.values = code, values
    return error


class NotInstalledError(UserError):
    """An optional package, or a program that it needs, is not installed; the message says how to get it."""


def not_named(section: str, name: str, remedy: str = "add it there") -> UserError:
    """The error for a `name` that a section of params.yaml, such as `tuning.variants`, does not hold."""
    sentence = f"{section} in params.yaml does not name {name!r}; {remedy}."
    return UserError("unknown_name", sentence, key=section, name=name)


def unknown_name(place: str, kind: str, name: str, known: Collection[str], **values: object) -> UserError:
    """The error for a `name` that is none of the `known` ones; it names the one that is most alike.

    The sentence begins with `place`: `report.baseline: there is no model 'bse' (did you mean base?); there are ...`.
    """
    meant = next(iter(get_close_matches(name, known, n=1)), None)
    hint = f" (did you mean {meant}?)" if meant else ""
    sentence = f"{place}: there is no {kind} {name!r}{hint}; there are {', '.join(known) or 'none'}."
    return UserError("unknown_name", sentence, **values, name=name, known=list(known), meant=meant)


def file_error(code: str, file: object, message: str, *, at: str = "", **values: object) -> UserError:
    """An error in a file. The sentence begins with the file and where in it, such as `at="line 3"`."""
    return UserError(code, f"{file}{', ' if at else ''}{at}: {message}", file=file, **values)


def first_line(error: BaseException) -> str:
    """The first line of an error's text without its full stop, or its type where it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")
