"""The tiny base model's tokenizer, made on the spot: byte-level BPE in which every word of the worlds is one token."""

import json
from collections import Counter
from collections.abc import Iterable
from importlib import resources

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentrefine.errors import UserError

PAD, END_OF_TURN, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [PAD, END_OF_TURN, USER, ASSISTANT]

MERGES_FOR_OTHER_TEXT = 384
"""Merges learned from the worlds' own words, so that text from elsewhere costs about half a token per letter."""

WORD = r" ?\{\w+\}| ?\w+:?| ?[^\s\w]+|\s(?=\S)|\s+"
"""How text splits before merging: words with their leading space, among them `{place}` and `Goal:`, and signs."""

FREQUENT = 5
"""A piece that the texts hold this often is one token, also without its leading space or as punctuation."""


def own_chat_template() -> str:
    """Our chat template, for models that have none: role marker, text, end-of-turn token."""
    return resources.files("agentrefine.tuning").joinpath("chat_template.jinja").read_text(encoding="utf-8").strip()


def build_tokenizer(words: Iterable[str], texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A lossless tokenizer for any text in which each of `words`, with its leading space, is one token.

    The vocabulary is the bytes, a few hundred merges, the words, and the frequent pieces of `texts` (line breaks,
    punctuation, words that begin a line). A piece that is in the vocabulary as a whole is taken as a whole
    (`ignore_merges`), so no token is spent on the steps between a byte and a word.

    Args:
        words: every word that the worlds, their wordings and the agent's thoughts can hold.
        texts: typical text of the worlds, as the model reads it.

    Raises:
        UserError: a word cannot be one token, because it is empty or mixes letters and signs.
    """
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pieces = [_piece(word, pre_tokenizer) for word in sorted(set(words))]
    counts = Counter(piece for text in texts for piece, _ in pre_tokenizer.pre_tokenize_str(text))
    pieces += sorted(piece for piece, count in counts.items() if count >= FREQUENT)

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + MERGES_FOR_OTHER_TEXT,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator((f" {word}" for word in sorted(set(words))), trainer)

    learned = learner.get_vocab(with_added_tokens=False)
    ordered = dict.fromkeys([*SPECIAL_TOKENS, *sorted(learned, key=lambda token: learned[token]), *pieces])
    vocabulary = {token: index for index, token in enumerate(ordered)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(learner), ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END_OF_TURN,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        chat_template=own_chat_template(),
        model_input_names=["input_ids", "attention_mask"],
    )


def check_words(tokenizer: PreTrainedTokenizerFast, words: Iterable[str]) -> None:
    """Refuse a tokenizer that splits a word of the worlds: a model of this size then fails on it.

    Raises:
        UserError: names the first word that is not one token.
    """
    for word in sorted(set(words)):
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(f"The word {word!r} of the worlds is {len(ids)} tokens instead of one; rename it.")


def _piece(word: str, pre_tokenizer: pre_tokenizers.PreTokenizer) -> str:
    """The word with its leading space, in the byte-level alphabet."""
    split = pre_tokenizer.pre_tokenize_str(f" {word}")
    if len(split) != 1 or not word.strip():
        parts = ", ".join(repr(word[max(begin - 1, 0) : end - 1]) for _, (begin, end) in split)
        raise UserError(
            f"The word {word!r} of the worlds cannot be one token: it splits into {parts}; "
            "use letters only, or signs only."
        )
    piece: str = split[0][0]
    return piece


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    """The learned merges; the library shows them only in its serialised form."""
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
