"""The folder that an import or export writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentrefine.errors import UserError
from agentrefine.files import atomic_folder


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which appears at `path` once all is written; what is there already is never replaced.

    Raises:
        UserError: there is something at `path`, the disk is full, or the place cannot be written to.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(
            "already_exists", f"{path}: exists already; name another folder, or remove it first.", file=path
        )
    with atomic_folder(path) as folder:
        yield folder
