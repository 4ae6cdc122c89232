"""The model that is tuned: a tiny one made here, one from a GGUF file, or a reference to one from elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from agentrefine.base_model.check import check_base, check_vocabulary
from agentrefine.base_model.gguf import read_gguf, read_model, read_tokenizer, tokenizer_remarks
from agentrefine.files import atomic_folder, sha256_file, write_json
from agentrefine.params.tuning import BaseModelParams
from agentrefine.simulation.tiny_base import Progress, make_tiny_base
from agentrefine.tuning.cards import CARD, GgufCard, ReferenceCard
from agentrefine.tuning.chat_template import own_chat_template
from agentrefine.tuning.models import is_gguf, load_tokenizer, model_digest, usable_tokenizer
from agentrefine.tuning.rendering import check_chat_template


class BaseResult(NamedTuple):
    """The outcome of making a base.

    Attributes:
        parameters: of the model; 0 for a reference.
        tokens: read in pretraining; 0 for a model from elsewhere.
        loss: nats per token over the last tenth of pretraining; 0 for a model from elsewhere.
        remarks: what is worth knowing of a model from elsewhere, one sentence each.
    """

    parameters: int
    tokens: int = 0
    loss: float = 0.0
    remarks: Sequence[str] = ()


def make_base(params: BaseModelParams, seed: int, out: Path, progress: Progress | None = None) -> BaseResult:
    """Write the base model's folder: the tiny model, the model of a GGUF file, or the tokenizer and a reference to a
    model from elsewhere.

    Raises:
        UserError: a file, path or hub id that holds no usable model; a full disk.
    """
    if params.is_tiny:
        card = make_tiny_base(params.tiny, seed, out, progress)
        return BaseResult(card.parameters, card.tokens, card.loss)
    if is_gguf(params.path):
        return make_dequantised(params, out)
    return make_reference(params, out)


def make_reference(params: BaseModelParams, out: Path) -> BaseResult:
    """Check the model, its tokenizer and its chat template, and write the tokenizer with the chat template to use and a
    card that names the model and says what is worth knowing of it.

    The weights stay where they are: a folder, or the hub's own cache.
    """
    tokenizer = load_tokenizer(params.path, _template(params))
    remarks = [*_template_remarks(params, tokenizer), *check_base(params.path, tokenizer)]
    card = ReferenceCard(path=params.path, digest=model_digest(params.path), chat_template=remarks)
    with atomic_folder(out) as folder:
        tokenizer.save_pretrained(folder)
        write_json(folder / CARD, card.model_dump())
    return BaseResult(parameters=0, remarks=remarks)


def make_dequantised(params: BaseModelParams, out: Path) -> BaseResult:
    """Read a GGUF file, check that its chat template can be trained on, and write weights (safetensors), tokenizer and
    a card that names the file, its digest and its quantisation.

    Raises:
        UserError: the file is damaged, holds no causal language model or one that transformers cannot read, its chat
            template cannot be trained on; a full disk.
    """
    file = read_gguf(Path(params.path).expanduser())
    model = read_model(file)
    tokenizer = usable_tokenizer(read_tokenizer(file), params.path, _template(params))
    remarks = [
        *tokenizer_remarks(file),
        *_template_remarks(params, tokenizer),
        *check_vocabulary(model, tokenizer, params.path),
    ]
    card = GgufCard(
        path=params.path,
        sha256=sha256_file(file.path),
        name=file.name,
        licence=file.licence,
        architecture=file.architecture,
        quantisation=file.quantisation if file.is_quantised else None,
        tensor_types=file.tensor_types,
        dtype=str(file.dtype).removeprefix("torch."),
        parameters=model.num_parameters(),
        chat_template=remarks,
    )
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / CARD, card.model_dump())
    if file.is_quantised:
        remarks = [f"The weights are dequantised from {file.quantisation}.", *remarks]
    return BaseResult(parameters=model.num_parameters(), remarks=remarks)


def _template(params: BaseModelParams) -> Path | None:
    return Path(params.chat_template) if params.chat_template else None


def _template_remarks(params: BaseModelParams, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Check the chat template; returns what is worth knowing of it, first of all that the model has none."""
    remarks = check_chat_template(tokenizer)
    if params.chat_template is None and tokenizer.chat_template == own_chat_template():
        return [
            "The model has no chat template, so it is tuned and played with this project's own; if it is a chat model, "
            "set base_model.chat_template to its template.",
            *remarks,
        ]
    return remarks
