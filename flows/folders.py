"""Runs in folders of their own, `agentrefine smoke`, `smollm` and `study`: they overwrite nothing of `make run`.

`runs/<name>/` is a folder that the stages can work in as in the project's: a DVC repository with its own params.yaml
and dvc.lock, and its own data, models and reports. Code, dvc.yaml and input files are links, so that they are never
old; the journal is shared, so that no answer is paid for twice; and so is DVC's cache, so that equal files are kept
once.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentrefine.errors import UserError
from agentrefine.files import file_missing, read_text, write_text
from agentrefine.params import Params, load_params
from agentrefine.params.presets import apply_preset
from agentrefine.params.seeds import write_seeds
from flows.workspace import PRESETS, exclusive_use, set_params
from tasks.names import DATA_SETS
from tasks.params import PARAMS

LINKED = (".dvcignore", "agentrefine", "configs", "dvc.yaml", "prefect.toml", "tasks")
"""What the stages and DVC read beside params.yaml and data."""

JOURNAL = Path("data/journal")
"""The teacher's answers and played episodes, each under a key of all that decides it: runs can share them."""

DVC_CONFIG = """\
# Written by flows/folders.py. Git ignores most of this folder, so DVC does without it; the cache is the project's.
[core]
    analytics = false
    check_update = false
    no_scm = true
[cache]
    dir = {cache}
[plots]
    html_template = {page}
"""


def run_in(folder: Path, source: Path, presets: Sequence[str], name: str, overrides: Sequence[str]) -> None:
    """Prepare a folder and run the pipeline there in this process's place.

    Args:
        folder: below the project's, which is the present one.
        source: the parameters that it begins with.
        presets: their values replace those.
        name: of the run's experiment and registered model in MLflow.
        overrides: as `dvc exp run -S` takes them; they come last.

    Raises:
        UserError: another run works in the folder, or it cannot be prepared.
    """
    check_free(folder)
    prepare(folder, source, presets, [*tracking(folder, name), *overrides])
    print("What is up to date is not run again, and after an interruption the same command resumes.", flush=True)
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "flows.pipeline"])  # noqa: S606 (so that Ctrl-C is the pipeline's)


def check_free(folder: Path) -> None:
    """Refuse a second run in a folder: the parameters of one that is under way must not change.

    Raises:
        UserError: another run works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder), exclusive_use():
        pass


def tracking(folder: Path, name: str) -> list[str]:
    """Overrides for the same MLflow store under other names; a file that params.yaml names is found from the folder."""
    names = [f"tracking.experiment={name}", f"tracking.registered_model={name}"]
    uri = load_params(PARAMS).tracking.uri
    place = uri.removeprefix("sqlite:///")
    if place == uri or place.startswith("/"):
        return names
    return [f"tracking.uri='sqlite:///{os.path.relpath(place, folder)}'", *names]


def prepare(
    folder: Path, source: Path, presets: Sequence[str], overrides: Sequence[str], seeds: Sequence[int] = ()
) -> None:
    """Make a folder for a run, or bring it up to date with the project's code and parameters.

    The project's folder is the present one. The params.yaml is that of `source` with the presets and then the overrides
    (as `dvc exp run -S` takes them) applied. It is written each time, so a change of the project's parameters holds for
    this run too. With `seeds`, every variant stands there once for each.

    Raises:
        UserError: a preset or key that there is not, parameters that do not fit, something else where a link belongs,
            or a folder that cannot be written.
    """
    if not PARAMS.is_file():
        raise file_missing(PARAMS, "run from the project's folder")
    root = Path.cwd()
    try:
        JOURNAL.mkdir(parents=True, exist_ok=True)
        (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{folder}: cannot be made ({error.strerror}); make its parent writable."
        raise UserError("not_writable", message, file=folder) from error
    cache, page = (os.path.relpath(root / ".dvc" / name, folder / ".dvc") for name in ("cache", "plots.html"))
    write_text(folder / ".dvc" / "config", DVC_CONFIG.format(cache=cache, page=page))
    params = _write_params(folder, source, presets, overrides, seeds)
    for name in (*LINKED, str(JOURNAL), *_inputs(params)):
        if (root / name).exists():
            _link(folder / name, root / name)


def _write_params(
    folder: Path, source: Path, presets: Sequence[str], overrides: Sequence[str], seeds: Sequence[int]
) -> Params:
    """Write the folder's params.yaml, at once and only if it changes."""
    draft = folder / f".{PARAMS.name}.draft"
    try:
        write_text(draft, read_text(source, "run from the project's folder"))
        for preset in presets:
            apply_preset(preset, draft, PRESETS)
        set_params(draft, overrides)
        if seeds:
            write_seeds(draft, seeds)
        params = load_params(draft)
        write_text(folder / PARAMS, draft.read_text(encoding="utf-8"))
    finally:
        draft.unlink(missing_ok=True)
    return params


def _inputs(params: Params) -> Iterator[str]:
    """Files and folders that the parameters name by paths below the project's folder and that no stage writes."""
    named = (
        params.personas.path,
        params.teacher.prices,
        params.base_model.path,
        params.base_model.chat_template,
        params.quality_gate.tokenizer,
        *params.evaluation.data.model_dump().values(),
        *(endpoint.prices for endpoint in params.evaluation.endpoints.values()),
        *(mix.chat for mix in params.mix.values()),
        *(mix.data_set for mix in params.mix.values()),
        *(variant.data_set for variant in params.tuning.variants.values()),
    )
    for path in dict.fromkeys(named):
        if path is None or DATA_SETS.fullmatch(Path(path).as_posix()):
            continue
        if not Path(path).is_absolute() and Path(path).exists():
            if ".." in Path(path).parts:
                message = f"{path}: lies outside of the project's folder; name it by its whole path, from / on."
                raise UserError("outside_project", message, file=path)
            yield path


def _link(link: Path, target: Path) -> None:
    """Make a relative link, so that the project can be moved."""
    relative = Path(os.path.relpath(target, link.parent))
    if link.is_symlink():
        if link.readlink() == relative:
            return
        link.unlink()
    elif link.exists():
        message = f"{link}: is no link to {target}; move it away and run again."
        raise UserError("not_a_link", message, file=link, target=target)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(relative)
