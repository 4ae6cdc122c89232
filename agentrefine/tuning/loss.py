"""The masked cross-entropy, computed where labels are and nowhere else: of a batch, and of all validation rows."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from agentrefine.tuning.data import row_lengths
from agentrefine.tuning.rendering import MASKED

EVALUATION_TOKENS = 4096
"""Tokens of a batch that is only scored, padding included, unless one row alone is longer."""


def labelled_loss(
    model: nn.Module,
    ids: torch.Tensor,
    labels: torch.Tensor,
    reduction: Literal["mean", "sum"],
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy in nats over the tokens that have a label: their mean or their sum.

    Logits are computed only at positions where some row has a label, which is most of the saving where a fifth of the
    tokens has one. Rows must be padded on the right: causal attention needs no mask for them.

    Args:
        model: a causal LM of transformers, or a wrapper around one.
        ids: token ids, (rows, length).
        labels: of the same shape; -100 where nothing is learned.
        reduction: as in torch's `cross_entropy`.
        position_ids: of the same shape, for rows that hold several conversations: each begins at 0.
    """
    following = labels[:, 1:]
    positions = (following != MASKED).any(dim=0).nonzero().flatten()
    several = {} if position_ids is None else {"position_ids": position_ids}
    logits = model(input_ids=ids, logits_to_keep=positions, use_cache=False, **several).logits
    return cross_entropy(
        logits.flatten(0, 1).float(), following[:, positions].flatten(), ignore_index=MASKED, reduction=reduction
    )


def fused_loss(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of the cross-entropies in nats, by TRL's fused output layer.

    On a GPU that scores, in tiles, the positions that have a label. The attention mask is left out: rows are padded on
    the right, so causal attention needs none, and with one torch takes a slower kernel.

    Args:
        model: a causal LM that TRL's trainer has prepared, or a wrapper around one.
        inputs: `input_ids`, `labels`, and for rows of several conversations what tells them apart.
    """
    without_mask = {name: value for name, value in inputs.items() if name != "attention_mask"}
    log_probs: torch.Tensor = model(**without_mask, use_cache=False, fused_lm_head=True).log_probs
    return -log_probs.sum()


class LabelSums(NamedTuple):
    """Cross-entropy summed over the tokens that have a label, in nats, and how many these are."""

    loss: float
    labels: int


def masked_loss(model: nn.Module, rows: Dataset) -> float:
    """Mean cross-entropy over the tokens of all rows that have a label, nats per token."""
    sums = label_sums(model, rows)
    return sums.loss / sums.labels


def label_sums(model: nn.Module, rows: Dataset, rank: int = 0, processes: int = 1) -> LabelSums:
    """One process's part of the sums over all rows (`input_ids`, `labels`).

    Every process runs the model equally often, as sharded models need: where batches run out, on one without labels.
    The model is scored in evaluation mode and left in the mode it was in.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    loss, count = 0.0, 0
    batches = list(_batches_of_similar_length(rows))
    with torch.no_grad():  # FSDP cannot train on what inference mode has touched
        for begin in range(0, len(batches), processes):
            turn = begin + rank
            batch = rows[batches[min(turn, len(batches) - 1)]]
            ids = pad_sequence([torch.tensor(x) for x in batch["input_ids"]], batch_first=True)
            labels = pad_sequence([torch.tensor(x) for x in batch["labels"]], batch_first=True, padding_value=MASKED)
            if turn >= len(batches):
                labels.fill_(MASKED)
            loss += float(labelled_loss(model, ids.to(device), labels.to(device), reduction="sum"))
            count += int((labels[:, 1:] != MASKED).sum())
    model.train(was_training)
    return LabelSums(loss, count)


def _batches_of_similar_length(rows: Dataset) -> Iterator[Sequence[int]]:
    lengths = row_lengths(rows)
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > EVALUATION_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
