"""The tiny base model's tokenizer, made on the spot: byte-level BPE in which every name of the worlds is one token.

A model of this size looks names up in its context, which takes more of its few layers the more tokens a name has. So a
name of several words (`coffee mug`) is one token, and so is each stretch of fixed text between two names (` is in the`,
`, so I'll`): the pre-tokenizer keeps both together. Text from elsewhere falls apart into words, letters and bytes.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentrefine.errors import UserError
from agentrefine.tuning.chat_template import own_chat_template
from agentrefine.worlds.language import HOLE

PAD, END_OF_TURN, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [PAD, END_OF_TURN, USER, ASSISTANT]
MERGES_FOR_OTHER_TEXT = 384
"""Merges learned from the worlds' own words, so that text from elsewhere costs about half a token per letter."""
MIN_FREQUENCY = 5
"""A piece that the texts hold this often is one token, also without its leading space or as punctuation."""
WORD = r" ?\{\w+\}| ?\w+:?| ?[^\s\w]|\s(?=\S)|\s+"
"""How other text splits before merging: words with their leading space, among them `{place}` and `Goal:`, and signs."""
_SENTENCE_END = re.compile(r"[.?!]|\n|(?<=:) ")


def stretches(templates: Iterable[str]) -> set[str]:
    """The stretches of fixed text between the holes of templates; none goes beyond the end of a sentence or line."""
    parts = (
        part.strip() for template in templates for hole in HOLE.split(template) for part in _SENTENCE_END.split(hole)
    )
    return {part for part in parts if re.search(r"\w", part)}


def build_tokenizer(words: Iterable[str], texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A lossless tokenizer for any text in which each of `words`, with its leading space, is one token.

    The vocabulary is the bytes, a few hundred merges, the words, and the frequent pieces of `texts` (line breaks,
    punctuation, words that begin a line), each taken as a whole (`ignore_merges`).

    Args:
        words: names and stretches of text, of one or several words; one that begins with a sign, such as `, so`, has
            no leading space. What begins with a capital letter is one token without a leading space, too.
        texts: typical text of the worlds, as the model reads it.

    Raises:
        UserError: a word is empty or has space around it.
    """
    words = sorted(set(words))
    forms = [form for word in words for form in _forms(word)]
    # What `WORD` would split of the words is kept together, the longest first.
    kept = {word for word in words if not re.fullmatch(WORD, word, re.ASCII)}
    pre_tokenizer = _splitting(rf" ?{_any_of(kept)}(?!\w)|{WORD}" if kept else WORD)
    pieces: list[str] = [pre_tokenizer.pre_tokenize_str(form)[0][0] for form in forms]
    counts = Counter(piece for text in texts for piece, _ in pre_tokenizer.pre_tokenize_str(text))
    pieces += sorted(piece for piece, count in counts.items() if count >= MIN_FREQUENCY)

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _splitting(WORD)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = len(alphabet) + MERGES_FOR_OTHER_TEXT
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator((f" {word}" for word in words), trainer)

    learned = learner.get_vocab(with_added_tokens=False)
    ordered = dict.fromkeys([*SPECIAL_TOKENS, *sorted(learned, key=lambda token: learned[token]), *pieces])
    vocabulary = {token: index for index, token in enumerate(ordered)}
    # The library shows learned merges only in its serialised form.
    merges = [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
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
    """Raise UserError if the tokenizer splits a name or word of the worlds: a model of this size then fails on it."""
    for word in sorted(set(words)):
        for form in _forms(word):
            ids = tokenizer(form, add_special_tokens=False)["input_ids"]
            if len(ids) != 1:
                message = f"The word {word!r} of the worlds is {len(ids)} tokens instead of one; rename it."
                raise UserError("word_is_split", message, word=word, tokens=len(ids))


def _forms(word: str) -> list[str]:
    """How a word stands in a text: after a space, unless it begins with a sign; at the beginning, with a capital."""
    if not word or word != word.strip():
        message = f"The word {word!r} of the worlds cannot be one token; it must have no space around it."
        raise UserError("word_with_space", message, word=word)
    after_space = f" {word}" if word[0].isalnum() or word[0] == "{" else word
    return [after_space, word] if word[0].isupper() else [after_space]


def _splitting(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Splits a text at a pattern's matches, and writes the parts in the byte-level alphabet."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _any_of(words: set[str]) -> str:
    """A regular expression of the words as a tree of their letters: an alternation of whole words is far slower."""
    heads = sorted({word[0] for word in words if word})
    branches = "|".join(re.escape(head) + _any_of({word[1:] for word in words if word[:1] == head}) for head in heads)
    return f"(?:{branches}){'?' if '' in words else ''}" if heads else ""
