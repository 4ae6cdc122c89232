"""Publishing on the Hugging Face hub: what is uploaded, and the upload. Nothing runs unless a person asks."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the client's HTTP library
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
)

from agentrefine.errors import UserError, first_line
from agentrefine.params import Params
from agentrefine.report.cards import DATA_SET, base_hub_id, data_set_card, model_card
from agentrefine.report.inputs import Project

TOKEN = "HF_TOKEN"  # noqa: S105 (the variable's name)
"""The environment variable that holds the key; it is never written anywhere."""

CARD = "README.md"
ADAPTER = "adapter_config.json"

MODEL_FILES = (
    "*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json", ADAPTER,
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
"""All that is uploaded of a model's folder: weights, configuration, tokenizer."""

DATA_SET_FILES = ("train.jsonl", "validation.jsonl")


class HubUpload(NamedTuple):
    """What goes where: `files` are paths here or contents, by their names in the repository."""

    repo_id: str
    repo_type: Literal["model", "dataset"]
    private: bool
    files: dict[str, Path | bytes]

    def described(self) -> str:
        """Target and files with their sizes, one a line."""
        access = "private" if self.private else "public"
        lines = [f"{self.repo_type} {self.repo_id} ({access})"]
        for name, source in self.files.items():
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            lines.append(f"  {name:32} {size:>16,} bytes")
        return "\n".join(lines)


def model_upload(
    variant: str,
    repo_id: str,
    params: Params,
    project: Project,
    *,
    private: bool = True,
    licence: str | None = None,
    data_set_id: str | None = None,
) -> HubUpload:
    """A tuned model with its card. An adapter names its base by the hub id instead of the folder here.

    Raises:
        UserError: a bad id, a model that was not tuned here, or an adapter whose base is not on the hub.
    """
    _check_id(repo_id)
    if data_set_id is not None:
        _check_id(data_set_id)
    card = model_card(variant, params, project, repo_id=repo_id, licence=licence, data_set_id=data_set_id)
    folder = project.root / "models" / variant
    files = {CARD: card.encode(), **_matching(folder, MODEL_FILES)}
    if not any(name.endswith(".safetensors") for name in files):
        message = f"{folder}: holds no weights (*.safetensors); run the stage tuning@{variant} again."
        raise UserError("stage_not_run", message, file=folder, stage=f"tuning@{variant}")
    if ADAPTER in files:
        files[ADAPTER] = _adapter_config(folder / ADAPTER, base_hub_id(project))
    return HubUpload(repo_id, "model", private, files)


def data_set_upload(
    repo_id: str, params: Params, project: Project, *, private: bool = True, licence: str | None = None
) -> HubUpload:
    """The gated data set with its card.

    Raises:
        UserError: a bad id, a stage that has not run, or a data set that did not pass the gate.
    """
    _check_id(repo_id)
    card = data_set_card(params, project, repo_id=repo_id, licence=licence)
    files = {CARD: card.encode(), **_matching(project.root / DATA_SET, DATA_SET_FILES)}
    return HubUpload(repo_id, "dataset", private, files)


def token_from_environment() -> str:
    """The key of the hub.

    Raises:
        UserError: the variable is not set, or holds what cannot be a key.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        message = (
            f"{TOKEN}: not set; make a token with write access at https://huggingface.co/settings/tokens and export it."
        )
        raise UserError("key_missing", message, variable=TOKEN)
    if not re.fullmatch(r"[!-~]+", token):  # an HTTP library would repeat it in its error
        raise UserError("bad_value", f"{TOKEN}: holds characters that no token has; export it again.", variable=TOKEN)
    return token


def push(upload: HubUpload, token: str) -> str:
    """Create the repository if need be and commit the files, all or none. Returns the commit's address.

    Raises:
        UserError: the hub refuses, cannot be reached, or has a public repository of that name where a private one is
            asked for.
    """
    api = HfApi(token=token)
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=source if isinstance(source, bytes) else str(source))
        for name, source in upload.files.items()
    ]
    try:
        api.create_repo(upload.repo_id, repo_type=upload.repo_type, private=upload.private, exist_ok=True)
        if upload.private and not api.repo_info(upload.repo_id, repo_type=upload.repo_type).private:
            raise UserError(
                "already_public",
                f"{upload.repo_id}: is there already and public; choose another name, or add --no-private to publish.",
                name=upload.repo_id,
            )
        commit = api.create_commit(
            upload.repo_id, operations, repo_type=upload.repo_type, commit_message="Upload by agentrefine"
        )
    except HfHubHTTPError as error:
        raise _refusal(upload.repo_id, error) from error
    except OfflineModeIsEnabled as error:
        problem = "HF_HUB_OFFLINE: is set, so nothing can be uploaded; unset it and run again."
        raise UserError("hub_unreachable", problem, variable="HF_HUB_OFFLINE") from error
    except HTTPError as error:
        problem = f"{api.endpoint}: cannot be reached ({first_line(error)}); check the network and run again."
        raise UserError("hub_unreachable", problem, url=api.endpoint) from error
    except (RuntimeError, ValueError) as error:  # a large file's upload broke off; a card that the hub cannot read
        problem = f"{upload.repo_id}: the upload failed ({first_line(error)}); run again."
        raise UserError("upload_failed", problem, name=upload.repo_id) from error
    return str(commit.commit_url)


def _refusal(repo_id: str, error: HfHubHTTPError) -> UserError:
    status = error.response.status_code
    refused = {
        401: f"the hub does not know the token in {TOKEN} (401); export a valid one with write access.",
        403: f"the token in {TOKEN} may not write there (403); use one with write access to it.",
    }
    if status in refused:
        return UserError("key_refused", f"{repo_id}: {refused[status]}", variable=TOKEN, status=status)
    reason = " ".join((error.server_message or first_line(error)).split())
    problem = f"{repo_id}: the hub refused ({status}: {reason}); nothing was committed."
    return UserError("hub_refused", problem, name=repo_id, status=status)


def _check_id(repo_id: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id, flags=re.ASCII):
        message = f"{repo_id!r}: no id of the hub; write it as USER/REPO, in letters, digits, -, _ and dots."
        raise UserError("bad_value", message, value=repo_id)


def _matching(folder: Path, patterns: Sequence[str]) -> dict[str, Path | bytes]:
    """The files of a folder that match, by name."""
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {file.name: file for file in sorted(found)}


def _adapter_config(file: Path, base: str | None) -> bytes:
    """An adapter's configuration with the base's hub id."""
    if base is None:
        message = (
            f"{file.parent}: is an adapter of a base that is not on the hub, so nobody could load it; tune with "
            "method: full, or set base_model.path to a hub id."
        )
        raise UserError("base_not_on_hub", message, file=file.parent)
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    return json.dumps(config, indent=2).encode()
