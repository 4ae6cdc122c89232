"""How well a model predicts the labelled tokens of a set of rows, without training on them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from agentrefine.tuning.batches import row_lengths
from agentrefine.tuning.loss import labelled_loss
from agentrefine.tuning.rendering import MASKED

EVALUATION_TOKENS = 4096
"""Of a batch that is only scored, padding included, unless one row alone is longer."""


class LabelSums(NamedTuple):
    """Cross-entropy summed over the tokens that have a label, in nats, and how many these are."""

    loss: float
    labels: int


def masked_loss(model: nn.Module, rows: Dataset) -> float:
    """Mean cross-entropy over the tokens of all rows that have a label, nats per token."""
    sums = label_sums(model, rows)
    return sums.loss / sums.labels


def label_sums(model: nn.Module, rows: Dataset, rank: int = 0, processes: int = 1) -> LabelSums:
    """One process's part of the sums over all rows.

    Every process runs the model equally often, as sharded models need: where batches run out, on one without labels.

    Args:
        model: a causal LM; scored in evaluation mode and left in the mode it was in.
        rows: `input_ids` and `labels`.
        rank: of this process.
        processes: that share the rows.
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
