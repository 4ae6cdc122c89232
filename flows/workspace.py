"""The working folder as DVC sees it: what is up to date, what a stage has just made, and who may work in it."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from agentrefine.errors import UserError

PARAMS = Path("params.yaml")
BACKUP = Path(".dvc/tmp/params.before-run.yaml")
OVERRIDDEN = Path(".dvc/tmp/params.of-run.yaml")
LOCK = Path(".dvc/tmp/pipeline.lock")


class Workspace:
    """Asks DVC which stages are up to date and records those that have run."""

    def __init__(self) -> None:
        try:
            self._repo = Repo(".")
        except DvcException as error:
            raise UserError(f"dvc.yaml: {error}; run from the project's folder, or run `dvc init` in it.") from error

    def up_to_date(self, address: str) -> bool:
        """Whether nothing that the stage reads or writes has changed since it was last recorded.

        Args:
            address: a stage as DVC names it, such as `verification` or `tuning@refinement`.
        """
        self._repo._reset()  # DVC keeps what it has read of files that the stages have since rewritten
        try:
            return not self._repo.status(targets=[address])
        except DvcException as error:
            raise UserError(f"dvc.yaml, stage {address}: {error}; correct the stage or its parameters.") from error

    def record(self, address: str) -> None:
        """Write the stage's inputs and outputs, as they are now, into dvc.lock and the cache."""
        self._repo._reset()
        try:
            self._repo.commit(address, force=True)
        except OSError as error:
            raise UserError(
                f"{address}: DVC cannot keep its outputs ({error.strerror or error}); free some space and run again."
            ) from error
        except DvcException as error:
            raise UserError(f"dvc.yaml, stage {address}: {error}; correct the stage and run again.") from error


@contextmanager
def exclusive_use() -> Iterator[None]:
    """Hold the working folder for one pipeline run.

    Raises:
        UserError: another run holds it.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("Another pipeline run works in this folder; wait for it to end, or stop it.") from error
        _put_back_after_a_kill()
        yield


def _put_back_after_a_kill() -> None:
    """Undo the overrides of a run that was killed, unless someone has edited the file since."""
    if BACKUP.exists():
        if not OVERRIDDEN.exists() or OVERRIDDEN.read_bytes() == PARAMS.read_bytes():
            shutil.move(BACKUP, PARAMS)
        BACKUP.unlink(missing_ok=True)
        OVERRIDDEN.unlink(missing_ok=True)


@contextmanager
def overridden_params(overrides: dict[str, object]) -> Iterator[None]:
    """Let `overrides` hold for one run, as `dvc exp run -S` does: in params.yaml, which is put back afterwards.

    The stages and DVC read the same file, so what is recorded is what was run.

    Args:
        overrides: dotted key of params.yaml to its value, such as `{"tuning.learning_rate": 0.001}`.

    Raises:
        UserError: a key that params.yaml does not have.
    """
    if not overrides:
        yield
        return
    BACKUP.parent.mkdir(parents=True, exist_ok=True)
    partial = BACKUP.with_suffix(".partial")
    shutil.copyfile(PARAMS, partial)
    partial.rename(BACKUP)
    try:
        try:
            apply_overrides(PARAMS, [f"{key}={_hydra(value)}" for key, value in overrides.items()])
        except DvcException as error:
            raise UserError(f"overrides: {error.__cause__ or error}; name keys as params.yaml does.") from error
        shutil.copyfile(PARAMS, OVERRIDDEN)
        yield
    finally:
        shutil.move(BACKUP, PARAMS)
        OVERRIDDEN.unlink(missing_ok=True)


def _hydra(value: object) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list):
        return "[" + ",".join(_hydra(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(item)}" for key, item in value.items()) + "}"
    return str(value)
