"""The model that is tuned: a tiny one made here, one from a GGUF file, or a reference to one from elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agentrefine.conversation import instructions, opening, reply_text
from agentrefine.files import atomic_folder, sha256_file, short_hash, write_json
from agentrefine.params.tuning import BaseModelParams, TinyModel
from agentrefine.teacher.offline import thoughts
from agentrefine.tuning.base_check import check_base, check_vocabulary
from agentrefine.tuning.corpus import PlainText, phrasing, plain_texts
from agentrefine.tuning.gguf import read_gguf, read_model, read_tokenizer, tokenizer_remarks
from agentrefine.tuning.loss import labelled_loss
from agentrefine.tuning.models import CARD, is_gguf, load_tokenizer, model_digest, usable_tokenizer
from agentrefine.tuning.optimizer import make_optimizer
from agentrefine.tuning.rendering import MASKED
from agentrefine.tuning.template_check import check_chat_template
from agentrefine.tuning.tokenizer import FREQUENT, build_tokenizer, check_words, own_chat_template, stretches
from agentrefine.worlds.catalogue import all_templates, said, vocabulary, words_in

Progress = Callable[[int, int], None]
"""Told the tokens done and all tokens, after each step."""

TEXTS_FOR_TOKENIZER = 400

POOL = 64
"""Texts among which rows of similar length are put together."""

WARMUP_STEPS = 30

DECAY_SHARE = 0.4

EMBEDDING_STD = 0.1
"""Of the first embeddings. With transformers' 0.02 the first steps make the names of one kind nearly the same, and the
model cannot tell them apart when it looks something up."""


class Row(NamedTuple):
    """A text's token ids, and its labels with -100 where nothing is learned."""

    ids: torch.Tensor
    labels: torch.Tensor


class Batch(NamedTuple):
    """Padded rows of token ids and labels, (rows, longest row); labels are -100 where nothing is learned."""

    ids: torch.Tensor
    labels: torch.Tensor
    tokens: int


class BaseResult(NamedTuple):
    """What making a base came to.

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
        return make_tiny_base(params.tiny, seed, out, progress)
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
    card = {
        "kind": "reference",
        "path": params.path,
        "digest": model_digest(params.path),
        "chat_template": remarks,
    }
    with atomic_folder(out) as folder:
        tokenizer.save_pretrained(folder)
        write_json(folder / CARD, card)
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
    card = {
        "kind": "gguf",
        "path": params.path,
        "sha256": sha256_file(file.path),
        "name": file.name,
        "licence": file.licence,
        "architecture": file.architecture,
        "quantisation": file.quantisation if file.is_quantised else None,
        "tensor_types": file.tensor_types,
        "dtype": str(file.dtype).removeprefix("torch."),
        "parameters": model.num_parameters(),
        "chat_template": remarks,
    }
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / CARD, card)
    if file.is_quantised:
        remarks = [f"The weights are dequantised from {file.quantisation}.", *remarks]
    return BaseResult(parameters=model.num_parameters(), remarks=remarks)


def make_tiny_base(params: TinyModel, seed: int, out: Path, progress: Progress | None = None) -> BaseResult:
    """Pretrain a small Llama on plain text of the training worlds, so that it speaks their language but is no agent.

    The text holds descriptions, rules and transcripts of the training families and themes (see
    `agentrefine.tuning.corpus`); no chat, no thoughts, nothing of the held-out families. Equal seeds and thread
    counts give equal bytes.

    Args:
        params: sizes and learning rates.
        seed: draws worlds, weights.
        out: the folder to write: weights (safetensors), tokenizer, card.
        progress: called after each step.

    Raises:
        UserError: a word of the worlds is not one token; a full disk.
    """
    tokenizer = tiny_tokenizer(seed)
    tokenizer.model_max_length = params.max_length
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_config(params, tokenizer))
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    losses, seen = _pretrain(model, _batches(tokenizer, params, seed), params, progress)
    _renew_unseen(model, seen, seed)
    tail = losses[-max(1, len(losses) // 10) :]
    made = BaseResult(parameters=model.num_parameters(), tokens=params.pretraining_tokens, loss=sum(tail) / len(tail))
    card = {
        "kind": "tiny",
        "seed": seed,
        "vocabulary": len(tokenizer),
        "params": params.model_dump(),
        "parameters": made.parameters,
        "tokens": made.tokens,
        "loss": made.loss,
    }
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / CARD, card)
    return made


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


def tiny_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tiny base's tokenizer: every name and word of every world, held out or not, and of the agent's texts is one
    token, and so is every stretch of text between two names.
    """
    templates = [*said(), *thoughts.phrasings(), *phrasing().values()]
    words = vocabulary() | {word for text in templates for word in words_in(text)} | stretches(templates)
    commands = dict.fromkeys(all_templates(), "")
    chat = [m.content for m in opening(instructions(commands), "", "")] + [reply_text("", "")]
    tokenizer = build_tokenizer(
        words, [*(plain.text for plain in islice(plain_texts(seed), TEXTS_FOR_TOKENIZER)), *chat * FREQUENT]
    )
    check_words(tokenizer, words)
    return tokenizer


def _config(params: TinyModel, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=params.hidden_size,
        intermediate_size=params.intermediate_size,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        num_key_value_heads=params.heads,
        max_position_embeddings=params.max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def _batches(tokenizer: PreTrainedTokenizerFast, params: TinyModel, seed: int) -> Iterator[Batch]:
    """Batches without end: each text is a row of its own, rows of similar length together."""
    rng = Random(int(short_hash("batches", str(seed)), 16))
    texts = plain_texts(seed)
    while True:
        rows = [_row(tokenizer, text, params) for text in islice(texts, POOL)]
        batches: list[list[Row]] = [[]]
        for row in sorted(rows, key=lambda row: len(row.ids)):
            if batches[-1] and (len(batches[-1]) + 1) * len(row.ids) > params.batch_tokens:
                batches.append([])
            batches[-1].append(row)
        rng.shuffle(batches)
        for batch in batches:
            ids = pad_sequence([row.ids for row in batch], batch_first=True, padding_value=tokenizer.pad_token_id)
            labels = pad_sequence([row.labels for row in batch], batch_first=True, padding_value=MASKED)
            yield Batch(ids, labels, tokens=sum(len(row.ids) for row in batch))


def _row(tokenizer: PreTrainedTokenizerFast, plain: PlainText, params: TinyModel) -> Row:
    ids = [*tokenizer(plain.text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id][: params.max_length]
    labels = _answers(tokenizer, ids) if plain.answers_only else ids
    return Row(torch.tensor(ids), torch.tensor(labels))


def _answers(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[int]:
    """The tokens from each question mark, itself left out, to the next full stop; all others masked."""
    question, stop = (tokenizer.convert_tokens_to_ids(mark) for mark in "?.")
    labels, answering = [], False
    for token in ids:
        labels.append(token if answering else MASKED)
        answering = token == question or (answering and token != stop)
    return labels


def _pretrain(
    model: LlamaForCausalLM, batches: Iterator[Batch], params: TinyModel, progress: Progress | None
) -> tuple[list[float], torch.Tensor]:
    """Train in place. Returns the loss of each step in nats per token, and which tokens the text held."""
    optimizer = make_optimizer(model, learning_rate=params.learning_rate, muon_learning_rate=params.muon_learning_rate)
    highest = [group["lr"] for group in optimizer.param_groups]
    losses: list[float] = []
    seen = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    done = 0
    model.train()
    while done < params.pretraining_tokens:
        batch = next(batches)
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * _learning_rate_factor(len(losses), done / params.pretraining_tokens)
        loss = labelled_loss(model, batch.ids, batch.labels, reduction="mean")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seen[batch.ids.flatten()] = True
        done += batch.tokens
        if progress is not None:
            progress(min(done, params.pretraining_tokens), params.pretraining_tokens)
    return losses, seen


def _renew_unseen(model: LlamaForCausalLM, seen: torch.Tensor, seed: int) -> None:
    """Draw the embeddings of tokens that the text never held anew, around the mean of the others.

    Pretraining only pushes them away from everything; the chat's tokens would take long to come back from there.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        noise = torch.randn(int((~seen).sum()), weight.shape[1])
        weight[~seen] = weight[seen].mean(dim=0) + weight[seen].std(dim=0) * noise


def _learning_rate_factor(step: int, share_done: float) -> float:
    """Linear warm-up, a constant stretch, linear decay to zero."""
    return min(1.0, (step + 1) / (WARMUP_STEPS + 1), (1 - share_done) / DECAY_SHARE)
