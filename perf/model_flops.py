"""Model FLOPs and their utilisation, as PaLM counts them (Chowdhery et al. 2022, appendix B)."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

PEAK_FLOPS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s by a part of the device's name, the longer names first (NVIDIA's data sheets)."""


def flops_per_token(
    parameters: int, layers: int, attention_width: int, context: float, *, frozen: bool = False
) -> float:
    """Of training on one token: 6N + 12 L H Q T; with frozen weights 4N, since their gradients are not computed.

    The whole context is counted though attention is causal; what activation checkpointing computes again is not.

    Args:
        parameters: N, of the matrices that every token is multiplied with.
        layers: L.
        attention_width: H times Q, heads by their width.
        context: T, tokens.
        frozen: whether only an adapter is trained; the adapter's own are left out.
    """
    return (4 if frozen else 6) * parameters + 12 * layers * attention_width * context


def least_flops_per_token(
    config: PreTrainedConfig, context: float, trained_share: float, *, frozen: bool = False
) -> float:
    """The least that training on one token takes: causal attention reads half of the context on average, and only
    trained tokens are multiplied with the output matrix.

    Args:
        config: the model's.
        context: T, tokens.
        trained_share: trained tokens by all tokens.
        frozen: whether only an adapter is trained.
    """
    output = config.vocab_size * config.hidden_size
    matrices = multiplied_parameters(config) - output + output * trained_share
    attention_width = config.num_attention_heads * config.head_dim
    return (4 if frozen else 6) * matrices + 6 * config.num_hidden_layers * attention_width * context


def mean_context(lengths: Sequence[int]) -> float:
    """The length of the conversation that a token is in, mean over all tokens: packing does not make it longer."""
    return sum(length**2 for length in lengths) / sum(lengths)


def multiplied_parameters(config: PreTrainedConfig) -> int:
    """All parameters but embeddings that are only looked up (those that are tied to the output are multiplied too)."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    looked_up = set() if config.tie_word_embeddings else {id(model.get_input_embeddings().weight)}
    return sum(p.numel() for p in model.parameters() if id(p) not in looked_up)


def peak_flops(device: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU by its name; None for one that is not in the table."""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in device), None)
