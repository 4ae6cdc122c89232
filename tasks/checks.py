"""What would end a later stage, found before the first one: nothing is paid for or computed that could not be used."""

import os
import shlex
import shutil
import urllib.error
import urllib.request
from collections.abc import Collection
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from prefect.settings import PREFECT_HOME

from agentrefine.errors import UserError, first_line, not_named
from agentrefine.files import file_missing
from agentrefine.game.personas import load_personas
from agentrefine.params import Params
from agentrefine.params.teacher import Role
from agentrefine.proxies import is_loopback

WRITTEN = ("data", "models", "reports", "checkpoints")
"""Folders that the stages write; DVC records only what lies in the repository."""

ANSWER_SECONDS = 10
"""Seconds to wait for one answer of a server that runs."""

ROLES: dict[str, tuple[Role, ...]] = {
    "synthesis": ("script", "trajectory"),
    "refinement": ("refinement",),
    "forecast": ("script", "trajectory", "refinement"),
}
"""The teacher's roles that a stage calls."""

USE_BASE = {"base_model", "quality_gate", "tuning", "evaluation"}
"""The stages that load the base, or a model that refers to it."""
USE_BENCHMARKS = {"synthesis", "evaluation", "reference_evaluation", "endpoint_evaluation"}
"""The stages that play benchmarks, and the first one, whose games are paid for so that models can play them."""


def check_before(params: Params, addresses: Collection[str]) -> None:
    """Check all that can be checked now of the stages that are going to run (`synthesis`, `tuning@refinement`).

    Raises:
        UserError: a missing model, file, key or launcher, or a folder that cannot be used; one sentence.
    """
    _check_folders()
    uri = params.tracking.uri
    if uri.startswith(("http://", "https://")) and not answers(f"{uri.rstrip('/')}/health", ANSWER_SECONDS):
        message = (
            f"tracking.uri: no MLflow server answers at {uri}; start it (mlflow server), or set the key to "
            "sqlite:///mlflow.db."
        )
        raise UserError("endpoint_unreachable", message, key="tracking.uri")
    for address in addresses:
        stage, _, key = address.partition("@")
        if stage == "mix":
            _check_named("mix", key, params.mix)
            if not Path(params.mix[key].chat).is_file():
                raise file_missing(params.mix[key].chat, "correct it in params.yaml", f"mix.{key}.chat")
        if stage == "tuning":
            _check_named("tuning.variants", key, params.tuning.variants)
        for role in ROLES.get(stage, ()):
            chosen = params.teacher.role(role)
            if not chosen.is_offline:
                _check_key("teacher.api_key_env", chosen.api_key_env, chosen.base_url)
        if key in params.evaluation.endpoints:
            endpoint = params.evaluation.endpoints[key]
            _check_key(f"evaluation.endpoints.{key}.api_key_env", endpoint.api_key_env, endpoint.base_url)
    stages = {address.partition("@")[0] for address in addresses}
    if "synthesis" in stages:
        next(load_personas(Path(params.personas.path), limit=1), None)
    if stages & USE_BENCHMARKS:
        from agentrefine.benchmarks.catalogue import selected  # imports the benchmarks' packages

        selected(params.evaluation)
    if not params.base_model.is_tiny and stages & USE_BASE:
        _check_base(params, makes_folder="base_model" in stages)
    if "tuning" in stages and params.tuning.launcher != "python":
        check_launcher(params.tuning.launcher)
    elif "tuning" in stages:
        from agentrefine.tuning.hardware import check_hardware  # imports torch

        check_hardware(params.tuning)


def _check_named(section: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise not_named(section, name, f"it names {', '.join(known) or 'none'}; correct the name, or add it there")


def prefect_home() -> Path:
    """Where Prefect keeps its history: `.prefect` in the working folder, unless PREFECT_HOME names another folder.

    Raises:
        UserError: it cannot be written.
    """
    home: Path = PREFECT_HOME.value()
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    if not os.access(home, os.W_OK | os.X_OK):
        raise UserError(
            "not_writable",
            f"{home}: Prefect cannot write there; make it writable, or set PREFECT_HOME to a folder that is.",
            file=home,
        )
    return home


def _check_folders() -> None:
    """A folder of the stages that is a link to elsewhere would end the first stage when it is recorded."""
    here = Path.cwd().resolve()
    for name in WRITTEN:
        target = Path(name).resolve()
        if not target.is_relative_to(here):
            message = (
                f"{name}: links to {target}, outside of this folder, where DVC records nothing; make it a folder here "
                "(or move the whole project there)."
            )
            raise UserError("links_elsewhere", message, file=name, target=target)


def answers(address: str, seconds: float) -> bool:
    """Whether a server answers at an http address within so long.

    A refusal is an answer, as who may come in is for the server's client to find out; a gateway's word that the server
    behind it is down is none.
    """
    try:
        with urllib.request.urlopen(address, timeout=seconds):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (502, 503, 504)
    except (OSError, ValueError, HTTPException):
        return False


def _check_key(setting: str, variable: str, address: str) -> None:
    if not os.environ.get(variable) and not is_loopback(address):
        message = (
            f"{setting}: the environment variable {variable} is not set; set it to the key of {address} (any text, if "
            "the endpoint needs none)."
        )
        raise UserError("key_missing", message, key=setting, name=variable)


def _check_base(params: Params, *, makes_folder: bool) -> None:
    """Check the base; a GGUF file only where the stage base_model makes a folder of it, as nothing else reads it."""
    from agentrefine.base_model.gguf import read_gguf  # imports torch and transformers
    from agentrefine.tuning.models import is_gguf

    if is_gguf(params.base_model.path) and not makes_folder:
        return
    path, template = params.base_model.path, params.base_model.chat_template
    if template is not None and not Path(template).is_file():
        raise file_missing(template, "correct it in params.yaml", "base_model.chat_template")
    place = Path(path).expanduser()
    if place.is_dir():
        if not (place / "config.json").is_file() or not any(place.glob("*.safetensors")):
            raise _base_error(
                "model_unusable",
                f"{path} holds no model (config.json and *.safetensors); set it to a folder that does, a hub id, or "
                "tiny.",
                model=path,
            )
    elif is_gguf(path) and place.is_file():
        read_gguf(place)
    elif place.is_file():
        raise _base_error(
            "wrong_suffix",
            f"{path} is a file whose name does not end in .gguf; rename it if it is a GGUF file, or set the key to a "
            "model's folder, a hub id, or tiny.",
            file=path,
        )
    else:
        _check_hub_id(path)


def _base_error(code: str, sentence: str, **values: str) -> UserError:
    return UserError(code, f"base_model.path: {sentence}", key="base_model.path", **values)


def _check_hub_id(path: str) -> None:
    import httpx2  # what the hub's client raises for a proxy that refuses
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    if path.count("/") != 1 or path.startswith((".", "/", "~")) or Path(path).parent.is_dir():
        sentence = f"{path}: no such file or folder; set it to a model's folder, a hub id, or tiny."
        raise _base_error("model_missing", sentence, model=path)
    try:
        hf_hub_download(path, "config.json")
    except (OSError, ValueError, HFValidationError, httpx2.HTTPError) as error:
        raise _base_error(
            "model_missing",
            f"{path} is neither a folder here nor a model that the Hugging Face hub gives ({first_line(error)}); "
            "correct it, or set it to tiny.",
            model=path,
        ) from error


def check_launcher(launcher: str) -> None:
    """Refuse a command of `tuning.launcher` that is not installed.

    Raises:
        UserError: names it.
    """
    command = shlex.split(launcher)[0]
    if shutil.which(command) is None:
        message = f"tuning.launcher: {command} is not installed; correct it in params.yaml."
        raise UserError("not_installed", message, key="tuning.launcher", name=command)
