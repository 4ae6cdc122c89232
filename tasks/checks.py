"""What would end a later stage, found before the first one: nothing is paid for or computed that could not be used.

Before a stage that asks a paid teacher, all that the later stages need is checked too, whether they are about to run or
not: `dvc repro` starts one stage after the other, and the data set is paid for by then.
"""

import asyncio
import os
import re
import shlex
import shutil
import urllib.error
import urllib.request
from collections.abc import Collection
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.settings import PREFECT_HOME

from agentrefine.errors import UserError, first_line, unknown_name
from agentrefine.files import file_missing
from agentrefine.game.personas import load_personas
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.params.evaluation import INSTALLED
from agentrefine.params.teacher import Role
from agentrefine.proxies import is_loopback
from tasks.names import NAMED, check_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WRITTEN = ("data", "models", "reports", "checkpoints")
"""Folders that the stages write; DVC records only what lies in the repository."""

ANSWER_SECONDS = 10
"""Seconds to wait for one answer of a server that runs."""

ROLES: dict[str, tuple[Role, ...]] = {
    "synthesis": ("script", "trajectory"),
    "repair": ("repair",),
    "forecast": ("script", "trajectory", "repair"),
}
"""The teacher's roles that a stage calls."""

MISSING_SCOPE = re.compile(r"scope|permission", re.IGNORECASE)
"""How a provider says that a key may not list models, which says nothing of chat completions."""

USE_BASE = {"base_model", "quality_gate", "tuning", "evaluation"}
"""The stages that load the base, or a model that refers to it."""
USE_BENCHMARKS = {"synthesis", "evaluation", "reference_evaluation", "endpoint_evaluation"}
"""The stages that play benchmarks, and the first one, whose games are paid for so that models can play them."""

NAME_BENCHMARKS = USE_BENCHMARKS | {"quality_gate", "report"}
"""The stages that read which benchmarks params.yaml names."""


def check_before(params: Params, addresses: Collection[str]) -> None:
    """Check all that can be checked now of the stages that are going to run (`synthesis`, `tuning@refinement`).

    Where one of them asks a paid teacher, that is what all stages read: base, tokenizer, chat template, data, endpoints
    and their keys. What a machine must have for tuning is checked for stages that are going to run only, as the data
    may be made on another one.

    Raises:
        UserError: a missing model, file, key or launcher, an endpoint that does not answer, or a folder that cannot be
            used; one sentence.
    """
    _check_folders()
    uri = params.tracking.uri
    if uri.startswith(("http://", "https://")) and not answers(f"{uri.rstrip('/')}/health", ANSWER_SECONDS):
        from tasks.tracking.store import without_credentials  # imports MLflow

        message = (
            f"tracking.uri: no MLflow server answers at {without_credentials(uri)}; start it (mlflow server), or set "
            "the key to sqlite:///mlflow.db."
        )
        raise UserError("endpoint_unreachable", message, key="tracking.uri", url=without_credentials(uri))
    running = {address.partition("@")[0] for address in addresses}
    pays = any(not params.teacher.role(role).is_simulated for stage in running for role in ROLES.get(stage, ()))
    needed = list(dict.fromkeys([*addresses, *(_all_addresses(params) if pays else ())]))
    for address in needed:
        stage, _, key = address.partition("@")
        if stage in NAMED:
            check_name(stage, key, params)
        if stage == "mix":
            if not Path(params.mix[key].chat).is_file():
                raise file_missing(params.mix[key].chat, "correct it in params.yaml", f"mix.{key}.chat")
            _check_data_set(f"mix.{key}.data_set", params.mix[key].data_set, params)
        if stage == "tuning":
            _check_data_set(f"tuning.variants.{key}.data_set", params.tuning.variants[key].data_set, params)
        for role in ROLES.get(stage, ()):
            chosen = params.teacher.role(role)
            if not chosen.is_simulated:
                _check_key("teacher.api_key_env", chosen.api_key_env, chosen.base_url)
        if key in params.evaluation.endpoints:
            endpoint = params.evaluation.endpoints[key]
            section = f"evaluation.endpoints.{key}"
            _check_key(f"{section}.api_key_env", endpoint.api_key_env, endpoint.base_url)
            load_prices(endpoint.prices, section).known(endpoint.model, endpoint.max_cost, section)
    stages = {address.partition("@")[0] for address in needed}
    if "synthesis" in stages:
        next(load_personas(Path(params.personas.path), limit=1), None)
    if stages & NAME_BENCHMARKS:
        _check_benchmarks(params)
    if stages & USE_BENCHMARKS:
        from agentrefine.benchmarks.catalogue import selected  # imports the benchmarks' packages

        selected(params.evaluation)
    if not params.base_model.is_tiny and stages & USE_BASE:
        _check_base(params, makes_folder="base_model" in stages)
    if "quality_gate" in stages and params.quality_gate.tokenizer != "base_model":
        _load_tokenizer(params.quality_gate.tokenizer, "quality_gate.tokenizer")
    if "tuning" in running and params.tuning.launcher != "python":
        check_launcher(params.tuning.launcher)
    elif "tuning" in running:
        from agentrefine.tuning.hardware import check_hardware  # imports torch

        check_hardware(params.tuning)
    if pays:
        _check_endpoints(params)


def _all_addresses(params: Params) -> list[str]:
    """The stages whose needs are checked before anything is paid for."""
    return [
        "synthesis",
        "repair",
        "base_model",
        "quality_gate",
        *(f"mix@{name}" for name in params.mix),
        *(f"on_policy@{name}" for name in params.on_policy),
        *(f"tuning@{name}" for name in params.tuning.variants),
        *(f"evaluation@{name}" for name in params.evaluation.models),
        *(f"endpoint_evaluation@{name}" for name in params.evaluation.endpoints),
    ]


def _check_data_set(setting: str, folder: str, params: Params) -> None:
    """Refuse a data set that no stage writes and that is not there."""
    mixes, on_policy = (f"data/mix/{n}" for n in params.mix), (f"data/on_policy/{n}" for n in params.on_policy)
    if folder not in {"data/dataset", *mixes, *on_policy} and not (Path(folder) / "train.jsonl").is_file():
        raise file_missing(f"{folder}/train.jsonl", "correct it in params.yaml, or import it", setting)


def _check_endpoints(params: Params) -> None:
    """Ask every endpoint that is named for its models, which costs nothing."""
    roles = [role for role in params.teacher.roles.values() if not role.is_simulated]
    asked = {(role.base_url, role.api_key_env): "teacher" for role in roles}
    for name, endpoint in params.evaluation.endpoints.items():
        asked.setdefault((endpoint.base_url, endpoint.api_key_env), f"evaluation.endpoints.{name}")
    for (base_url, variable), section in asked.items():
        asyncio.run(_check_endpoint(section, base_url, variable))


async def _check_endpoint(section: str, base_url: str, variable: str) -> None:
    """Refuse an endpoint that cannot be reached or does not take the key; any other answer shows that it is there."""
    import openai

    from agentrefine.llm.quirks import make_client

    key = os.environ.get(variable) or "none"
    async with make_client(base_url, key, ANSWER_SECONDS, section).with_options(max_retries=2) as client:
        try:
            await client.models.list()
        except openai.APIConnectionError as error:
            reason = first_line(error.__cause__ or error)
            message = (
                f"{section}.base_url: {base_url} does not answer ({reason}); start it, or correct the address, before "
                "anything is paid for."
            )
            raise UserError("endpoint_unreachable", message, key=f"{section}.base_url", url=base_url) from error
        except openai.AuthenticationError as error:
            said = first_line(error).replace(key, "***")
            if not MISSING_SCOPE.search(said):
                message = f"{section}.api_key_env: {base_url} refuses the key in {variable} ({said}); correct it."
                raise UserError("key_refused", message, key=f"{section}.api_key_env", name=variable) from error
        except (openai.APIStatusError, openai.APIResponseValidationError, ValueError):
            return  # of a server that does not list its models


def _check_benchmarks(params: Params) -> None:
    """Refuse a benchmark that there is not, and a champion's that is not played."""
    from agentrefine.benchmarks.catalogue import BENCHMARKS  # imports the benchmarks' packages

    champion, played = params.report.champion_benchmark, params.evaluation.benchmarks
    named = {
        "evaluation.benchmarks": played,
        "quality_gate.overlap_benchmarks": params.quality_gate.overlap_benchmarks,
        "report.champion_benchmark": [champion],
    }
    for key, names in named.items():
        for name in names if names != INSTALLED else ():
            if name not in BENCHMARKS:
                raise unknown_name(f"params.yaml: {key}", "benchmark", name, BENCHMARKS, key=key)
    if played != INSTALLED and champion not in played:
        key = "report.champion_benchmark"
        message = (
            f"params.yaml: {key} is {champion}, which evaluation.benchmarks does not name; add it there, or let one of "
            "those decide."
        )
        raise UserError("bad_value", message, key=key, name=champion)


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
    """Check all of the base but its weights; its tokenizer, and a GGUF file, where the stage base_model reads them."""
    from agentrefine.base_model.gguf import read_gguf, read_tokenizer  # imports torch and transformers
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
        _check_tokenizer(read_tokenizer(read_gguf(place)), path, template)
    elif place.is_file():
        raise _base_error(
            "wrong_suffix",
            f"{path} is a file whose name does not end in .gguf; rename it if it is a GGUF file, or set the key to a "
            "model's folder, a hub id, or tiny.",
            file=path,
        )
    else:
        _check_hub_id(path)
    if makes_folder and not is_gguf(path):
        _check_tokenizer(_load_tokenizer(path, "base_model.path"), path, template)


def _load_tokenizer(path: str, key: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or hub id, which a key of params.yaml names; no weights are fetched."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(Path(path).expanduser() if Path(path).is_dir() else path)
    except (OSError, ValueError, KeyError) as error:
        sentence = f"{key}: {path} holds no tokenizer that transformers knows ({first_line(error)})"
        raise UserError("model_unusable", f"{sentence}; set it to a model that does.", key=key, model=path) from error


def _check_tokenizer(tokenizer: "PreTrainedTokenizerBase", path: str, template: str | None) -> None:
    """Refuse a tokenizer or chat template that could not be trained on."""
    from agentrefine.tuning.chat_template import check_chat_template
    from agentrefine.tuning.models import usable_tokenizer

    check_chat_template(usable_tokenizer(tokenizer, path, Path(template) if template else None))


def _base_error(code: str, sentence: str, **values: str) -> UserError:
    return UserError(code, f"base_model.path: {sentence}", key="base_model.path", **values)


def _check_hub_id(path: str) -> None:
    import httpx2  # what the hub's client raises for a proxy that refuses
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    if path.count("/") != 1 or path.startswith((".", "/", "~")) or Path(path).parent.is_dir():
        sentence = f"{path}: no such file or folder; set it to a model's folder, a hub id, or tiny."
        raise _base_error("model_missing", sentence, model=path, sought="here")
    try:
        hf_hub_download(path, "config.json")
    except (OSError, ValueError, HFValidationError, httpx2.HTTPError) as error:
        raise _base_error(
            "model_missing",
            f"{path} is neither a folder here nor a model that the Hugging Face hub gives ({first_line(error)}); "
            "correct it, or set it to tiny.",
            model=path,
            sought="here and on the hub",
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
