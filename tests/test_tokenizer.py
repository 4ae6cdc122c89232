"""The tiny tokenizer: lossless, one token per word of the worlds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from agentrefine.errors import UserError
from agentrefine.tuning.base_model import tiny_tokenizer
from agentrefine.tuning.tokenizer import build_tokenizer, check_words
from agentrefine.worlds.catalogue import vocabulary

TOKENIZER = build_tokenizer(["lamp", "lamps", "{place}", "Goal:", ",", "table2"], ["you see lamp .\nyou go"] * 6)


@pytest.fixture(scope="module")
def tiny() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(7)


def test_every_word_of_the_worlds_is_one_token(tiny):
    for word in vocabulary():
        assert len(tiny(f" {word}")["input_ids"]) == 1, word
    assert len(tiny) <= 3000


def test_line_starts_of_the_reply_format_are_one_token(tiny):
    for text in ("Thought:", "Action:", "Goal:", "you", "OK"):
        assert len(tiny(text)["input_ids"]) == 1, text


@given(st.text())
def test_any_text_comes_back(text):
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_a_word_inside_a_longer_one_is_not_taken_for_it():
    assert TOKENIZER.tokenize(" lamps") == ["Ġlamps"]
    assert TOKENIZER.tokenize(" lamp") == ["Ġlamp"]
    assert "Ġlamp" not in TOKENIZER.tokenize(" lampshade")


def test_a_saved_tokenizer_loads_as_it_was(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|user|>Goal: put lamp in hall .<|end|><|assistant|>Thought: unseen wörds\nAction: go"
    assert loaded(text)["input_ids"] == tiny(text)["input_ids"]
    assert loaded.chat_template == tiny.chat_template
    assert loaded.pad_token_id != loaded.eos_token_id


def test_a_word_that_splits_is_refused():
    with pytest.raises(UserError, match=r"'fire-place'.*cannot be one token"):
        build_tokenizer(["fire-place"], [])
    with pytest.raises(UserError, match="cannot be one token"):
        build_tokenizer(["two words"], [])


def test_a_tokenizer_that_lacks_a_word_is_refused():
    with pytest.raises(UserError, match=r"'sofa' of the worlds is [0-9]+ tokens"):
        check_words(TOKENIZER, ["lamp", "sofa"])


def test_equal_inputs_give_equal_tokenizers():
    one, two = (build_tokenizer(["lamp", "key"], ["you see lamp ."] * 9) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
