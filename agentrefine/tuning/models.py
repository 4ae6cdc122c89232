"""Models on disk: loading a base by path or hub id, loading a tuned model, and a digest that identifies a model."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import httpx2  # what the hub's client raises for a proxy that refuses
import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils.tqdm import enable_progress_bars
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from agentrefine.errors import UserError, first_line
from agentrefine.files import read_text, sha256_file
from agentrefine.proxies import check_proxy
from agentrefine.tuning.cards import CARD, ReferenceCard, TunedCard, read_card
from agentrefine.tuning.chat_template import own_chat_template

MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
"""What is fetched from the hub: weights as safetensors only, no code."""

# Bars for downloads, which take long; none for reading and writing the files of a model.
disable_progress_bar()
enable_progress_bars()


class LoadedModel(NamedTuple):
    """A causal LM with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_base(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    quantization: BitsAndBytesConfig | None = None,
) -> LoadedModel:
    """The model that is tuned: a folder made by the base_model stage, any other local folder, or a hub id.

    Args:
        path: of the model.
        dtype: of its weights.
        attention: which implementation, by transformers' names.
        quantization: of its weights; None: none.

    Raises:
        UserError: there is no such model, or it has no safetensors weights or no fast tokenizer.
    """
    card = read_card(Path(path))
    folder = resolve(card.path if isinstance(card, ReferenceCard) else path)
    if isinstance(card, ReferenceCard) and model_digest(folder) != card.digest:
        sentence = "is no longer the model that the base_model stage saw; run that stage again."
        raise UserError("model_changed", f"{folder}: {sentence}", model=str(folder))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            quantization_config=quantization,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        sentence = "holds no causal language model with safetensors weights that transformers knows"
        remedy = f"({first_line(error)}); set base_model.path to one that does."
        raise _unusable(path, f"{sentence} {remedy}", part="weights") from error
    return LoadedModel(model, load_tokenizer(path))


def load_tokenizer(path: str | Path, chat_template: Path | None = None) -> PreTrainedTokenizerBase:
    """A model's tokenizer, with its own chat template, with `chat_template` instead, or with ours if it has none.

    Raises:
        UserError: there is no such model or template file, or no fast tokenizer.
    """
    folder = resolve(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        sentence = f"holds no tokenizer that transformers knows ({first_line(error)})"
        remedy = "set base_model.path to a folder or hub id that holds one."
        raise _unusable(path, f"{sentence}; {remedy}", part="tokenizer") from error
    return usable_tokenizer(tokenizer, path, chat_template)


def usable_tokenizer(
    tokenizer: PreTrainedTokenizerBase, path: str | Path, chat_template: Path | None = None
) -> PreTrainedTokenizerBase:
    """A tokenizer as tuning needs it, changed in place: with a chat template and a padding token.

    Args:
        tokenizer: as it was read.
        path: where it is from, for messages.
        chat_template: replaces its own.

    Raises:
        UserError: there is no such template file, no fast tokenizer, or no token that ends a turn.
    """
    if not tokenizer.is_fast:
        sentence = "has no fast tokenizer (tokenizer.json), which training needs; choose another model."
        raise _unusable(path, sentence, part="tokenizer.json")
    if chat_template is not None:
        tokenizer.chat_template = read_text(chat_template, "correct base_model.chat_template in params.yaml")
    elif not tokenizer.chat_template:
        tokenizer.chat_template = own_chat_template()
    if tokenizer.eos_token is None:
        sentence = "its tokenizer has no eos_token, so a turn could not end; choose another model."
        raise _unusable(path, sentence, part="eos_token")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_tuned(path: str | Path, base_folder: Path | None = None) -> LoadedModel:
    """A model that plays, on the GPU where there is one: a tuned one (an adapter is merged into its base), or a base.

    Args:
        path: of the model.
        base_folder: where the base of an adapter lies; None: where it lay when the adapter was tuned.

    Raises:
        UserError: there is no such model, or the adapter's base is no longer the one that it was tuned on.
    """
    folder = Path(path)
    if not (folder / "adapter_config.json").is_file():
        base = load_base(path)
        return base._replace(model=on_device(base.model))
    card = read_card(folder)
    if not isinstance(card, TunedCard):
        sentence = "is an adapter without the card of the tuning stage; run that stage again."
        raise UserError("stage_not_run", f"{path}: {sentence}", model=str(path), stage="tuning")
    origin = base_folder or card.base
    base = load_base(origin)
    if model_digest(origin) != card.base_digest:
        sentence = f"was tuned on another {origin} than the present one; run the tuning stage again."
        raise UserError("model_changed", f"{path}: {sentence}", model=str(path), base=str(origin))
    merged = PeftModel.from_pretrained(base.model, str(folder)).merge_and_unload()
    return LoadedModel(on_device(merged), load_tokenizer(folder))


def is_gguf(path: str | Path) -> bool:
    """Whether a path names a GGUF file, by its suffix; a folder is none."""
    return Path(path).suffix.lower() == ".gguf" and not Path(path).is_dir()


def on_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model, moved in place to the GPU where there is one."""
    return model.to("cuda") if torch.cuda.is_available() else model


def model_digest(path: str | Path) -> str:
    """SHA-256 over the names and bytes of a model's configuration, weights and tokenizer files; not of its card.

    Raises:
        UserError: there is no such model.
    """
    folder = resolve(path)
    digest = hashlib.sha256()
    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern) if file.name != CARD})
    for file in files:
        digest.update(f"{file.name}\0{sha256_file(file)}\n".encode())
    card = read_card(folder)
    if isinstance(card, ReferenceCard):
        digest.update(card.digest.encode())
    return digest.hexdigest()


def resolve(path: str | Path) -> Path:
    """The local folder of a model; a hub id is fetched into the hub's own cache.

    Raises:
        UserError: neither a folder nor a model that the hub gives.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    text, key = str(path), "base_model.path"
    if is_gguf(path):
        raise _unusable(path, f"a GGUF file is read by the stage base_model only; name it in {key}.", key=key)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        sentence = f"no such folder; set {key} to a model's folder, a GGUF file, a hub id, or tiny."
        raise UserError("model_missing", f"{text}: {sentence}", model=text, key=key)
    check_proxy(constants.ENDPOINT, key)
    try:
        return Path(snapshot_download(text, allow_patterns=MODEL_FILES))
    except (OSError, HFValidationError, httpx2.HTTPError) as error:
        sentence = f"neither a folder here nor a model that the Hugging Face hub gives ({first_line(error)})"
        remedy = f"correct {key}, or set it to tiny."
        raise UserError("model_missing", f"{text}: {sentence}; {remedy}", model=text, key=key) from error


def _unusable(path: str | Path, sentence: str, **values: str) -> UserError:
    return UserError("model_unusable", f"{path}: {sentence}", model=str(path), **values)
