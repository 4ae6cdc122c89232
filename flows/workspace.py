"""The working folder as DVC sees it: what is up to date, what a stage has just made, and who may work in it."""

import errno
import fcntl
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import yaml
from dvc.exceptions import DvcException, NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import SCMError
from dvc.utils.hydra import apply_overrides
from dvc_data.hashfile.hash_info import HashInfo

from agentrefine.errors import UserError
from agentrefine.params import closest_key, is_key
from flows.side_by_side import run_side_by_side
from tasks.params import PARAMS, RESOLVED, write_resolved

PRESETS = Path("presets")
BACKUP = Path(".dvc/tmp/params.before-run.yaml")
OVERRIDDEN = Path(".dvc/tmp/params.of-run.yaml")
LOCK = Path(".dvc/tmp/pipeline.lock")

NO_REPOSITORY = {
    "git": "no git repository, by which DVC finds what was changed; run `git init`, or `dvc config core.no_scm true` "
    "to do without git, and run again.",
    "dvc": "no DVC repository; run from the project's folder, or, where .dvc is lost, run `git init && dvc init` (or "
    "`dvc init --no-scm`).",
}
"""What a folder lacks and how to get it."""


for _name in ("dvc", "dvc_data", "dvc_objects"):
    logging.getLogger(_name).propagate = False  # DVC prints what they say; the root logger's handler, Prefect's, too


class Workspace:
    """Asks DVC which stages are up to date, runs the others and records them.

    `refresh` brings the files that DVC reads up to date; it is called before each question to DVC.
    """

    def __init__(self, refresh: Callable[[], object] = lambda: None) -> None:
        self._refresh = refresh
        try:
            self._repo = Repo(".")
        except (SCMError, NotDvcRepoError) as error:
            missing = "git" if isinstance(error, SCMError) else "dvc"
            sentence = f"{Path.cwd()}: {NO_REPOSITORY[missing]}"
            raise UserError("not_a_repository", sentence, file=Path.cwd(), missing=missing) from error
        except DvcException as error:
            raise UserError("dvc_yaml_refused", f"dvc.yaml: {error}; correct it.", file="dvc.yaml") from error

    def up_to_date(self, address: str) -> bool:
        """Whether nothing that a stage (`tuning@refinement`) reads or writes has changed since it was last recorded.

        Raises:
            UserError: dvc.yaml has no such stage, or the stage is not sound.
        """
        with self._asked_about(address):
            return not self._repo.status(targets=[address])

    def run(self, address: str, stage: Callable[[], object]) -> None:
        """Run a stage, then write its inputs and outputs into dvc.lock and the cache.

        DVC takes the inputs' hashes when the stage has ended. One that was edited meanwhile would pass for what the
        outputs were made from, so the inputs must be the same before and after.

        Raises:
            UserError: an input changed while the stage ran, or the outputs cannot be kept; nothing is recorded.
        """
        before = self._inputs(address)
        stage()
        self._record(address, before)

    def run_side_by_side(self, commands: Mapping[str, list[str]], at_once: int) -> None:
        """Run stages that do not depend on each other, each by its own command, and record those that succeed.

        They are recorded when all have ended: a stage may read dvc.lock while it runs.

        Raises:
            UserError: as `run`, or a stage failed; what another one had finished before is recorded.
        """
        before = {address: self._inputs(address) for address in commands}
        finished: list[str] = []
        try:
            with closing(run_side_by_side(commands, at_once)) as ended:
                finished.extend(ended)
        finally:
            for address in finished:
                self._record(address, before[address])

    def _record(self, address: str, before: dict[str, HashInfo | None]) -> None:
        """Write a stage's inputs and outputs into dvc.lock and the cache, if the inputs are still those of before."""
        after = self._inputs(address)
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if changed:
            message = (
                f"{address}: {' and '.join(changed)} changed while the stage ran, so its results are not recorded; "
                f"run again, or, where the change decides nothing, keep them by `dvc commit -f {address}`."
            )
            raise UserError("input_changed", message, stage=address, inputs=changed)
        with self._asked_about(address):
            self._repo.commit(address, force=True)

    def _inputs(self, address: str) -> dict[str, HashInfo | None]:
        """The hashes of the files and parameters that a stage reads, by their names; None where there is no such."""
        with self._asked_about(address):
            inputs = [dependency for stage in self._repo.stage.collect(address) for dependency in stage.deps]
            return {str(found): found.get_hash() if found.exists else None for found in inputs}

    @contextmanager
    def _asked_about(self, address: str) -> Iterator[None]:
        """Let DVC look at the files as they are now; what it cannot do is one sentence."""
        self._refresh()
        self._repo._reset()  # DVC keeps what it has read of files that the stages have since rewritten
        try:
            yield
        except OSError as error:
            raise UserError(
                "disk_full" if error.errno == errno.ENOSPC else "stage_files_unusable",
                f"{address}: DVC cannot read or keep its files ({error.strerror or error}); free some space or make "
                "them readable, and run again.",
                stage=address,
            ) from error
        except DvcException as error:
            sentence = f"dvc.yaml, stage {address}: {error}; correct the stage or its parameters."
            raise UserError("dvc_yaml_refused", sentence, file="dvc.yaml", stage=address) from error


@contextmanager
def exclusive_use() -> Iterator[None]:
    """Hold the working folder for one pipeline run. Without a DVC repository there is none, and nothing is held.

    Raises:
        UserError: another run holds it.
    """
    if not LOCK.parents[1].is_dir():
        yield
        return
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = "Another pipeline run works in this folder; wait for it to end, or stop it."
            raise UserError("already_running", message) from error
        _put_back_after_a_kill()
        yield


def _put_back_after_a_kill() -> None:
    """Undo the overrides of a run that was killed, unless someone has edited the file since."""
    if BACKUP.exists():
        if not OVERRIDDEN.exists() or OVERRIDDEN.read_bytes() == PARAMS.read_bytes():
            _put_back()
        BACKUP.unlink(missing_ok=True)
        OVERRIDDEN.unlink(missing_ok=True)


def _put_back() -> None:
    """Restore params.yaml, and with it the file on which DVC's stages depend."""
    shutil.move(BACKUP, PARAMS)
    if RESOLVED.is_file():
        write_resolved()


@contextmanager
def overridden_params(overrides: dict[str, object]) -> Iterator[None]:
    """Let `overrides` hold for one run, as `dvc exp run -S` does: in params.yaml, which is put back afterwards.

    They are dotted keys with values: `{"tuning.learning_rate": 0.001}`. The stages and DVC read the same file, so what
    is recorded is what was run.

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
        set_params(PARAMS, [f"{key}={_hydra(value)}" for key, value in overrides.items()])
        shutil.copyfile(PARAMS, OVERRIDDEN)
        yield
    finally:
        _put_back()
        OVERRIDDEN.unlink(missing_ok=True)


def set_params(file: Path, overrides: Sequence[str]) -> None:
    """Write `key=value` pairs into a params.yaml, as `dvc exp run -S` does; a key that the file leaves out is added.

    Raises:
        UserError: a key that params.yaml cannot have.
    """
    try:
        apply_overrides(file, [f"++{given}" if is_key(given.partition("=")[0]) else given for given in overrides])
    except DvcException as error:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        for key in (given.partition("=")[0].lstrip("+~") for given in overrides):
            meant = None if is_key(key) else closest_key(key, values)
            if not is_key(key) and meant != key:
                hint = f"; did you mean {meant}" if meant else ""
                message = f"overrides: {key}: there is no such key{hint}. `agentrefine params` shows every key."
                raise UserError("unknown_key", message, key=key, meant=meant) from error
        message = f"overrides: {error.__cause__ or error}; `agentrefine params` shows every key."
        raise UserError("bad_override", message) from error


def _hydra(value: object) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
