"""The tiny tokenizer: lossless, one token per word of the worlds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from agentrefine.simulation.tiny_base import tiny_tokenizer
from agentrefine.simulation.tokenizer import build_tokenizer, check_words, stretches
from agentrefine.worlds.catalogue import vocabulary
from tests.helpers.errors import refused

WORDS = ["lamp", "lamps", "{place}", "Goal:", "table2", "coffee mug", "is in the", ", so I'll", "You see"]
TOKENIZER = build_tokenizer(WORDS, ["You see the lamp.\nYou go"] * 6)


@pytest.fixture(scope="module")
def tiny() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(7)


def test_every_word_of_the_worlds_is_one_token(tiny):
    for word in vocabulary():
        assert len(tiny(f" {word}")["input_ids"]) == 1, word
    assert len(tiny) <= 3000


def test_line_starts_of_the_reply_format_are_one_token(tiny):
    for text in ("Thought:", "Action:", "Goal:", "You are in the", "That does not work:", "OK", ".", "?"):
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
    text = "<|user|>Goal: Put the coffee mug in the hall.<|end|><|assistant|>Thought: unseen wörds\nAction: go"
    assert loaded(text)["input_ids"] == tiny(text)["input_ids"]
    assert loaded.chat_template == tiny.chat_template
    assert loaded.pad_token_id != loaded.eos_token_id


def test_a_name_of_several_words_is_one_token_and_stands_apart_from_signs():
    assert TOKENIZER.tokenize("You see the coffee mug, so I'll") == ["YouĠsee", "Ġthe", "ĠcoffeeĠmug", ",ĠsoĠI'll"]
    assert TOKENIZER.tokenize(" lamp is in the table2.") == ["Ġlamp", "ĠisĠinĠthe", "Ġtable2", "."]
    assert "ĠcoffeeĠmug" not in TOKENIZER.tokenize(" coffee mugs")


def test_stretches_are_the_text_between_holes_and_ends_of_sentences():
    assert stretches(["Where is the {name}? {fact}.", "{facts}, so I'll {action}.", "Still to do: {a}\n$b go on"]) == {
        "Where is the", ", so I'll", "Still to do:", "go on"
    }  # fmt: skip


@pytest.mark.parametrize("word", ["", " lamp", "lamp "])
def test_a_word_with_space_around_it_is_refused(word):
    with refused("word_with_space", word=word):
        build_tokenizer([word], [])


def test_a_tokenizer_that_lacks_a_word_is_refused():
    with refused("word_is_split", word="sofa"):
        check_words(TOKENIZER, ["lamp", "sofa"])


def test_equal_inputs_give_equal_tokenizers():
    one, two = (build_tokenizer(["lamp", "key"], ["You see the lamp."] * 9) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
