"""The masked loss, and what lowers it: AdamW, or Muon on the hidden matrices with AdamW on the rest."""

from math import sqrt
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon, Optimizer

from agentrefine.tuning.chat_template import MASKED

BETAS = (0.9, 0.95)
"""The betas of AdamW; the second is lower than torch's, as is usual for language models."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al. 2024), as in `torch.optim.Muon`."""

NEWTON_SCHULZ_STEPS = 5
"""Steps of that iteration in each update, as in `torch.optim.Muon`."""


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


class CpuMuon(Muon):
    """torch's Muon with the Newton-Schulz iteration in fp32.

    torch iterates in bf16 on every device. A CPU without instructions for bf16 does that 30 to 70 times slower than in
    fp32; one that has them gains nothing, because `orthogonalized` needs fewer operations.
    """

    @torch.no_grad()
    def step(self, _closure: None = None) -> None:  # type: ignore[override]
        """One step, as torch's, but without a closure."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                buffer = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                update = orthogonalized(gradient.lerp(buffer, group["momentum"]), group["eps"])
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * sqrt(max(1.0, rows / columns)))


def orthogonalized(matrix: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """About the nearest matrix with orthonormal rows or columns: its singular values are brought near to 1.

    The quintic Newton-Schulz iteration of `torch.optim.Muon`, in fp32. Each step multiplies by a polynomial of the Gram
    matrix. That one is small where a matrix is long: the steps are taken on it, and their product is applied once.

    Args:
        matrix: of any shape, (rows, columns).
        eps: the smallest norm that is divided by.
    """
    wide = matrix.float() if matrix.size(0) <= matrix.size(1) else matrix.float().T
    wide = wide / torch.linalg.vector_norm(wide).clamp(min=eps)
    gram = wide @ wide.T
    product = factor = _quintic(gram)
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        gram = factor @ gram @ factor
        factor = _quintic(gram)
        product = factor @ product
    nearest: torch.Tensor = product @ wide
    return nearest if matrix.size(0) <= matrix.size(1) else nearest.T


def _quintic(gram: torch.Tensor) -> torch.Tensor:
    """What a step multiplies by: a + b G + c G G."""
    a, b, c = NEWTON_SCHULZ
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor


class MuonWithAdamW(Optimizer):
    """Muon (Jordan et al. 2024) on matrices between layers; AdamW on embeddings, norms and biases.

    One optimizer to the outside: learning-rate schedules and checkpoints see the groups and states of both.
    """

    def __init__(self, matrices: dict[str, Any], rest: dict[str, Any]) -> None:
        """Take Muon's group of parameters and AdamW's, each with its learning rate."""
        super().__init__([matrices, rest], defaults={})
        on_cpu = all(p.device.type == "cpu" for p in self.param_groups[0]["params"])
        self._parts: list[Optimizer] = [
            (CpuMuon if on_cpu else Muon)([self.param_groups[0]], weight_decay=0.0),
            AdamW([self.param_groups[1]], weight_decay=0.0, betas=BETAS, fused=True),
        ]
        self._share()

    def step(self, _closure: None = None) -> None:  # type: ignore[override]
        """One step of both."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Both parts' states, as `state_dict` gave them."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let both parts work on the groups and states that are seen from outside."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups = [group]
            part.state = self.state


def make_optimizer(
    model: nn.Module, *, learning_rate: float, muon_learning_rate: float | None, weight_decay: float = 0.0
) -> Optimizer:
    """The optimizer of a model's trainable parameters.

    Args:
        model: embeddings are found by type; every other matrix counts as hidden.
        learning_rate: AdamW's.
        muon_learning_rate: Muon's, for the hidden matrices; None: AdamW for everything.
        weight_decay: AdamW's, on matrices; vectors (norms, biases) and Muon's matrices have none.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if muon_learning_rate is None:
        groups = [
            {"params": [p for p in trainable if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=BETAS, fused=True)
    modules = list(model.modules())
    embedded = {id(p) for module in modules if isinstance(module, nn.Embedding) for p in module.parameters()}
    hidden = {id(module.weight) for module in modules if isinstance(module, nn.Linear)} - embedded
    return MuonWithAdamW(
        {"params": [p for p in trainable if id(p) in hidden], "lr": muon_learning_rate},
        {"params": [p for p in trainable if id(p) not in hidden], "lr": learning_rate},
    )
