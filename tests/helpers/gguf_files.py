"""Small GGUF files, written by the `gguf` package as llama.cpp's converter writes them."""

from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, quants
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.helpers.paths import DATA

END, START, UNKNOWN = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOLLM2_TEMPLATE = (DATA / "chat_templates" / "smollm2.jinja").read_text(encoding="utf-8")
"""SmolLM2-135M-Instruct's own, which begins with `SYSTEM` where a conversation has no system prompt."""

MERGES = ["t h", "th e", "Ġ the", "Ġ 1"]
"""The last one is never used where digits are split from all else."""

TOKENS = [UNKNOWN, START, END, *sorted(bytes_to_unicode().values()), "th", "the", "Ġthe", "Ġ1"]


def small_llama(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of two layers that knows nothing, with shapes that blocks of 32 fit into."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
    ).eval()


def write_gguf(
    path: Path,
    model: LlamaForCausalLM | None = None,
    kind: GGMLQuantizationType = GGMLQuantizationType.Q4_1,
    file_type: LlamaFileType | None = LlamaFileType.MOSTLY_Q4_1,
    *,
    architecture: str = "llama",
    template: str | None = SMOLLM2_TEMPLATE,
    pre: str = "smollm",
    tokenizer: str = "gpt2",
    without: str = "",
    **further: str | int,
) -> Path:
    """Write a model to a GGUF file.

    Args:
        path: of the file.
        model: from `small_llama`.
        kind: of the matrices; vectors are F32.
        file_type: as the file states it; None: it does not.
        architecture: as the file states it.
        template: of chats; None: none.
        pre, tokenizer: `tokenizer.ggml.pre` and `tokenizer.ggml.model`.
        without: no tensor of this name.
        further: strings and numbers of the metadata; `__` stands for a dot.
    """
    model = model or small_llama()
    writer = GGUFWriter(path, architecture)
    writer.add_name("Small Llama")
    writer.add_license("apache-2.0")
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if file_type is not None:
        writer.add_file_type(file_type)
    for key, value in further.items():
        name = key.replace("__", ".")
        if isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_string(name, value)
    _add_tokenizer(writer, tokenizer, pre, template)
    for name, weight in model.state_dict().items():
        renamed = _llama_cpp_name(name)
        if name != "lm_head.weight" and renamed != without:
            _add_tensor(writer, renamed, _permuted(name, weight, config).numpy(), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_empty_gguf(path: Path, architecture: str = "llama", **further: str) -> Path:
    """A file with metadata and a vocabulary, and no tensor."""
    writer = GGUFWriter(path, architecture)
    for key, value in further.items():
        writer.add_string(key.replace("__", "."), value)
    _add_tokenizer(writer, "gpt2", "smollm", None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter, tokenizer: str, pre: str, template: str | None) -> None:
    control = (UNKNOWN, START, END)
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([TokenType.CONTROL if token in control else TokenType.NORMAL for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(TOKENS.index(START))
    writer.add_eos_token_id(TOKENS.index(END))
    writer.add_pad_token_id(TOKENS.index(END))
    writer.add_unk_token_id(TOKENS.index(UNKNOWN))
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)


def _add_tensor(writer: GGUFWriter, name: str, weight: np.ndarray, kind: GGMLQuantizationType) -> None:
    if weight.ndim == 1 or kind == GGMLQuantizationType.F32:
        writer.add_tensor(name, np.ascontiguousarray(weight, dtype=np.float32))
    else:
        writer.add_tensor(name, quants.quantize(np.ascontiguousarray(weight), kind), raw_dtype=kind)


def _permuted(name: str, weight: torch.Tensor, config: LlamaConfig) -> torch.Tensor:
    """Rows of queries and keys in llama.cpp's order: the two halves of a head alternate."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            return weight.view(count, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
    return weight


def _llama_cpp_name(name: str) -> str:
    parts = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for part, other in parts.items():
        name = name.replace(part, other)
    return name
