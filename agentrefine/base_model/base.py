"""The model that is tuned: a tiny one made here, one from a GGUF file, or a reference to one from elsewhere.

A model from elsewhere is checked: its weights load, and every token that it is given has an embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentrefine.base_model.gguf import read_gguf, read_model, read_tokenizer, tokenizer_remarks
from agentrefine.errors import UserError
from agentrefine.files import atomic_folder, sha256_file, write_json
from agentrefine.params.tuning import BaseModelParams
from agentrefine.simulation.tiny_base import Progress, make_tiny_base
from agentrefine.tuning.cards import CARD, GgufCard, ReferenceCard
from agentrefine.tuning.chat_template import check_chat_template, own_chat_template, probe, prompt_ids, render
from agentrefine.tuning.models import is_gguf, load_base, load_tokenizer, model_digest, usable_tokenizer


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
    return _make_dequantised(params, out) if is_gguf(params.path) else make_reference(params, out)


def make_reference(params: BaseModelParams, out: Path) -> BaseResult:
    """Check the model, its tokenizer and its chat template, and write the tokenizer with the chat template to use and a
    card that names the model and says what is worth knowing of it.

    The weights stay where they are: a folder, or the hub's own cache.

    Raises:
        UserError: weights that do not fit the configuration, a token without an embedding, a chat template that cannot
            be trained on; a full disk.
    """
    template = Path(params.chat_template) if params.chat_template else None
    tokenizer = load_tokenizer(params.path, template)
    remarks = [*_template_remarks(params, tokenizer)]
    model = _load(params.path)
    remarks += _check_vocabulary(model, tokenizer, params.path)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and tokenizer.model_max_length > positions:
        tokenizer.model_max_length = positions
        remarks.append(f"the model has {positions} positions, so that texts are cut after {positions} tokens")
    card = ReferenceCard(path=params.path, digest=model_digest(params.path), chat_template=remarks)
    with atomic_folder(out) as folder:
        tokenizer.save_pretrained(folder)
        write_json(folder / CARD, card.model_dump())
    return BaseResult(parameters=0, remarks=remarks)


def _make_dequantised(params: BaseModelParams, out: Path) -> BaseResult:
    """Write weights (safetensors), tokenizer and a card that names the file, its digest and its quantisation."""
    file = read_gguf(Path(params.path).expanduser())
    model = read_model(file)
    template = Path(params.chat_template) if params.chat_template else None
    tokenizer = usable_tokenizer(read_tokenizer(file), params.path, template)
    remarks = [
        *tokenizer_remarks(file),
        *_template_remarks(params, tokenizer),
        *_check_vocabulary(model, tokenizer, params.path),
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


def _template_remarks(params: BaseModelParams, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Check the chat template; returns what is worth knowing of it, first of all that the model has none."""
    remarks = check_chat_template(tokenizer)
    if params.chat_template is None and tokenizer.chat_template == own_chat_template():
        missing = "The model has no chat template, so it is tuned and played with this project's own"
        remarks.insert(0, f"{missing}; if it is a chat model, set base_model.chat_template to its template.")
    return remarks


def _load(path: str) -> PreTrainedModel:
    """A model from elsewhere; weights that do not fit its configuration are refused."""
    try:
        return load_base(path).model
    except (RuntimeError, AssertionError) as error:
        if "Padding_idx" in str(error):
            sentence = "pad_token_id in config.json is no id of the model's vocabulary; correct it there"
            raise _no_embedding(path, sentence, file="config.json", key="pad_token_id") from error
        if "size mismatch" not in str(error) and "ignore_mismatched_sizes" not in str(error):
            raise
        message = (
            f"{path}: the weights do not have the shapes that config.json says (such as vocab_size or hidden_size); "
            "correct config.json, or fetch the model again."
        )
        raise UserError("shapes_mismatched", message, model=path, file="config.json") from error


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str) -> list[str]:
    """Refuse a tokenizer that writes tokens for which the model has no embedding or no output.

    Special tokens that neither end a turn, nor pad, nor stand in the chat template are allowed: samples that hold them
    are left out in tuning. A sentence says so.
    """
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    rows = min(int(layer.weight.shape[0]) for layer in layers if layer is not None)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    beyond = {id_: token for token, id_ in vocabulary if id_ >= rows}
    messages = probe()
    written = [*render(tokenizer, messages, "correct_turns").ids, *prompt_ids(tokenizer, messages[:3])]
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = ("eos_token", "pad_token", "bos_token", "unk_token")
    uses = [
        *((getattr(tokenizer, f"{name}_id"), f" ({name})") for name in named),
        *((id_, " of the chat template") for id_ in written),
        *((id_, " of the tokenizer") for id_ in beyond if id_ not in special),
    ]
    for id_, use in uses:
        if id_ is not None and id_ >= rows:
            token = f"{beyond.get(id_, '')!r}{use}"
            sentence = (
                f"the token {token} has the id {id_}, and the model has {rows} embeddings; use the model's own "
                "tokenizer, or enlarge the embedding (transformers: model.resize_token_embeddings(len(tokenizer))) and "
                "save both"
            )
            raise _no_embedding(path, sentence, token=token, id=id_, embeddings=rows)
    for file, config in (("config.json", model.config), ("generation_config.json", model.generation_config)):
        given = getattr(config, "eos_token_id", None)
        for id_ in given if isinstance(given, list) else [given]:
            if isinstance(id_, int) and id_ >= rows:
                sentence = f"eos_token_id in {file} is {id_}, and the model has {rows} embeddings; correct it there"
                raise _no_embedding(path, sentence, file=file, key="eos_token_id", id=id_, embeddings=rows)
    shown = ", ".join(beyond.values())[:100]
    return [f"{len(beyond)} special tokens have no embedding ({shown}); no text may hold them"] if beyond else []


def _no_embedding(path: str, sentence: str, **values: object) -> UserError:
    return UserError("no_embedding", f"{path}: {sentence}.", **values)
