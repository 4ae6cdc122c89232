"""The check of a base model from elsewhere: its weights load, and every token that it is given has an embedding."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.tuning.chat_template import probe, prompt_ids, render
from agentrefine.tuning.models import load_base

_RESIZE = (
    "use the model's own tokenizer, or enlarge the embedding (transformers: "
    "model.resize_token_embeddings(len(tokenizer))) and save both"
)


def check_base(path: str | Path, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Load the model and compare it with the tokenizer, whose `model_max_length` is lowered to the model's positions.

    Returns:
        What is allowed and worth knowing, one sentence each.

    Raises:
        UserError: weights that do not fit the configuration, or a token without an embedding; names it.
    """
    try:
        model = load_base(path).model
    except (RuntimeError, AssertionError) as error:
        if "size mismatch" not in str(error) and "ignore_mismatched_sizes" not in str(error):
            if "Padding_idx" not in str(error):
                raise
            raise UserError(
                "no_embedding",
                f"{path}: pad_token_id in config.json is no id of the model's vocabulary; correct it there.",
                file="config.json",
                key="pad_token_id",
            ) from error
        raise UserError(
            "shapes_mismatched",
            f"{path}: the weights do not have the shapes that config.json says (such as vocab_size or hidden_size); "
            "correct config.json, or fetch the model again.",
            model=str(path),
            file="config.json",
        ) from error
    return [*check_vocabulary(model, tokenizer, path), *_fit_positions(model, tokenizer)]


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str | Path) -> list[str]:
    """Refuse a tokenizer that writes tokens for which the model has no embedding or no output.

    Special tokens that neither end a turn, nor pad, nor stand in the chat template are allowed: samples that hold them
    are left out in tuning.

    Returns:
        What is allowed and worth knowing, one sentence each.

    Raises:
        UserError: names the token, its id and the number of embeddings.
    """
    rows = _rows(model)
    beyond = {
        id_: token for token, id_ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) if id_ >= rows
    }
    named = {
        "eos_token": tokenizer.eos_token_id,
        "pad_token": tokenizer.pad_token_id,
        "bos_token": tokenizer.bos_token_id,
        "unk_token": tokenizer.unk_token_id,
    }
    for name, id_ in named.items():
        if id_ is not None and id_ >= rows:
            raise _no_embedding(path, f"{beyond.get(id_, '')!r} ({name})", id_, rows)
    for id_ in _written(tokenizer):
        if id_ >= rows:
            raise _no_embedding(path, f"{beyond.get(id_, '')!r} of the chat template", id_, rows)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    for id_, token in beyond.items():
        if id_ not in special:
            raise _no_embedding(path, f"{token!r} of the tokenizer", id_, rows)
    _check_configured_ids(model, path, rows)
    if not beyond:
        return []
    return [
        f"{len(beyond)} special tokens have no embedding ({', '.join(beyond.values())[:100]}); no text may hold them"
    ]


def _rows(model: PreTrainedModel) -> int:
    """The tokens that a model can read and write."""
    output = model.get_output_embeddings()
    sizes = [model.get_input_embeddings().weight.shape[0]]
    return int(min(sizes if output is None else [*sizes, output.weight.shape[0]]))


def _written(tokenizer: PreTrainedTokenizerBase) -> Iterable[int]:
    """The tokens of a conversation and of a prompt."""
    messages = probe()
    return dict.fromkeys([*render(tokenizer, messages, "refinement").ids, *prompt_ids(tokenizer, messages[:3])])


def _check_configured_ids(model: PreTrainedModel, path: str | Path, rows: int) -> None:
    """Ids in config.json and generation_config.json at which generation would end."""
    for file, config in (("config.json", model.config), ("generation_config.json", model.generation_config)):
        given = getattr(config, "eos_token_id", None)
        for id_ in given if isinstance(given, list) else [given]:
            if isinstance(id_, int) and id_ >= rows:
                raise UserError(
                    "no_embedding",
                    f"{path}: eos_token_id in {file} is {id_}, and the model has {rows} embeddings; correct it there.",
                    file=file,
                    key="eos_token_id",
                    id=id_,
                    embeddings=rows,
                )


def _fit_positions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Lower the tokenizer's longest text to the positions that the model has, so that no row is longer."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or tokenizer.model_max_length <= positions:
        return []
    tokenizer.model_max_length = positions
    return [f"the model has {positions} positions, so that texts are cut after {positions} tokens"]


def _no_embedding(path: str | Path, token: str, id_: int, rows: int) -> UserError:
    return UserError(
        "no_embedding",
        f"{path}: the token {token} has the id {id_}, and the model has {rows} embeddings; {_RESIZE}.",
        token=token,
        id=id_,
        embeddings=rows,
    )
