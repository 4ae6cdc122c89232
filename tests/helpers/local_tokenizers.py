"""Tokenizers of three common kinds, made on the spot, with the special tokens that a chat template names."""

import json
import re
from collections.abc import Callable
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from agentrefine.tuning.chat_template import probe

SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>"]
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
GPT_2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NAMED = re.compile(r"<[|｜][^<>\s'\"]{1,30}[|｜]>|<(?:start|end)_of_turn>|<\|turn>|<turn\|>|\[/?INST\]|</?think>")
"""Tokens that chat templates name and that are one token each in the models that the templates come from."""

TEXTS = [m.content for m in probe()] * 3 + ["user system assistant model\n"] * 3


def byte_level(split: str = LLAMA_3) -> Tokenizer:
    """Byte-level BPE, as Llama 3, Qwen and GPT have it; `split` tells words apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *["\n\n"] * 50], trainer)
    return tokenizer


def sentencepiece_style() -> Tokenizer:
    """BPE that takes a space for a letter, puts one before each text and has bytes for rare letters, as Llama 2."""
    metaspace = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    words = [word for text in TEXTS for word in re.findall(r" ?[a-zA-Z]+|[.:,\n]+", text)]
    learner.train_from_iterator(words, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    pieces = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [(left, right) for left, right in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = metaspace
    space_back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(space_back)
    return tokenizer


def word_level() -> Tokenizer:
    """Words, signs and single white space, each a token; a word that it never saw is <unk>."""
    split = pre_tokenizers.Split(Regex(r"\w+|\s|[^\w\s]"), behavior="isolated")
    pieces = [piece for text in TEXTS for piece, _ in split.pre_tokenize_str(text)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys([*SPECIAL_TOKENS, *pieces]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece_style,
    "word-level": word_level,
}


@cache
def _backend(kind: str) -> str:
    return str(KINDS[kind]().to_str())


def tokenizer_for(template: str, kind: str = "byte-level", backend: Tokenizer | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer with this chat template and every special token that it names; it begins texts with <s> by itself."""
    made = backend or Tokenizer.from_str(_backend(kind))
    made.add_special_tokens(SPECIAL_TOKENS)
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    named = sorted(set(NAMED.findall(template)))
    made.add_special_tokens([token for token in named if "think>" not in token])
    made.add_tokens([token for token in named if "think>" in token])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer
