"""The masked cross-entropy of a batch, computed where labels are and nowhere else."""

from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from agentrefine.tuning.chat_template import MASKED


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
