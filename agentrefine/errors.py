"""The one exception that a user is meant to read."""


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


def package_missing(benchmark: str, package: str, install: str = "'agentrefine[benchmarks]'") -> NotInstalledError:
    """A benchmark's package is not installed; `install` is what pip is given."""
    message = f"the benchmark {benchmark} needs the package {package}: pip install {install}."
    return NotInstalledError("not_installed", message, benchmark=benchmark, name=package)


def first_line(error: BaseException) -> str:
    """The first line of an error's text without its full stop, or its type where it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")
