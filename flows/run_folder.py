"""Folders for further runs beside the project's own: the same code, inputs and teacher's answers, all else apart.

`runs/<name>/` is a folder that the stages can work in as in the project's: a DVC repository with its own params.yaml
and dvc.lock, and its own data, models and reports. Code, dvc.yaml and input files are links, so that they are never
old; the journal is shared, so that no answer is paid for twice; and so is DVC's cache, so that equal files are kept
once.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, file_missing
from agentrefine.params import Params, load_params
from agentrefine.params.presets import apply_preset
from flows.workspace import PARAMS, PRESETS, set_params

LINKED = (".dvcignore", ".dvc/plots", "agentrefine", "configs", "dvc.yaml", "prefect.toml", "tasks")
"""What the stages and DVC read beside params.yaml and data."""

JOURNAL = Path("data/journal")
"""The teacher's answers and played episodes, each under a key of all that decides it: runs can share them."""

DVC_CONFIG = """\
# Written by flows/run_folder.py. Git ignores most of this folder, so DVC does without it; the cache is the project's.
[core]
    analytics = false
    check_update = false
    no_scm = true
[cache]
    dir = {cache}
"""


def prepare(folder: Path, presets: Sequence[str], overrides: Sequence[str]) -> None:
    """Make a folder for a run, or bring it up to date with the project's code and parameters.

    Its params.yaml is the project's with the presets and then the overrides applied. It is written anew each time, so a
    change of the project's parameters holds for this run too.

    Args:
        folder: below the project's folder, which is the present one.
        presets: names in presets/.
        overrides: `key=value` with dotted keys, as `dvc exp run -S` takes them.

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
        raise UserError(
            "not_writable", f"{folder}: cannot be made ({error.strerror}); make its parent writable.", file=folder
        ) from error
    cache = os.path.relpath(root / ".dvc" / "cache", folder / ".dvc")
    _write(folder / ".dvc" / "config", DVC_CONFIG.format(cache=cache))
    params = _write_params(folder, presets, overrides)
    for name in (*LINKED, str(JOURNAL), *_inputs(params)):
        if (root / name).exists():
            _link(folder / name, root / name)


def _write_params(folder: Path, presets: Sequence[str], overrides: Sequence[str]) -> Params:
    """Write the folder's params.yaml, at once and only if it changes."""
    draft = folder / f".{PARAMS.name}.draft"
    try:
        _write(draft, PARAMS.read_text(encoding="utf-8"))
        for preset in presets:
            apply_preset(preset, draft, PRESETS)
        set_params(draft, overrides)
        params = load_params(draft)
        _write(folder / PARAMS, draft.read_text(encoding="utf-8"))
    finally:
        draft.unlink(missing_ok=True)
    return params


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic_write(path) as handle:
            handle.write(text)


def _inputs(params: Params) -> Iterator[str]:
    """Files and folders that the parameters name by paths below the project's folder and that no stage writes."""
    named = (
        params.personas.path,
        params.teacher.prices,
        params.base_model.path,
        params.base_model.chat_template,
        *params.evaluation.data.model_dump().values(),
        *(mix.chat for mix in params.mix.values()),
    )
    for path in named:
        if path is not None and not Path(path).is_absolute() and Path(path).exists():
            if ".." in Path(path).parts:
                raise UserError(
                    "outside_project",
                    f"{path}: lies outside of the project's folder; name it by its whole path, from / on.",
                    file=path,
                )
            yield path


def _link(link: Path, target: Path) -> None:
    """Make a relative link, so that the project can be moved."""
    relative = Path(os.path.relpath(target, link.parent))
    if link.is_symlink():
        if link.readlink() == relative:
            return
        link.unlink()
    elif link.exists():
        raise UserError(
            "not_a_link", f"{link}: is no link to {target}; move it away and run again.", file=link, target=target
        )
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(relative)
