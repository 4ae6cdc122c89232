"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can fix: a bad file, a wrong parameter, an unreachable server, a full disk.

    The message is one clear sentence that names the file, the line or key, what was expected and what to do.
    Every command prints it without a traceback and exits with a non-zero status.
    """


class NotInstalledError(UserError):
    """An optional package, or a program that it needs, is not installed; the message says how to get it."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text without its full stop, or its type where it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")
