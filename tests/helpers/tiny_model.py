"""Random models that are small enough to be made by every test that needs one."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def tiny_model(
    tokenizer: PreTrainedTokenizerBase, seed: int, *, kind: type[PreTrainedConfig] = LlamaConfig, **settings: object
) -> PreTrainedModel:
    """A model of two layers that knows nothing; `settings` are its configuration's, by transformers' names."""
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.4,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(kind(**{**shape, **settings})).eval()
