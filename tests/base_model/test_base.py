"""A base model is refused in its own stage where tuning would fail: tokens without embeddings, odd ids, odd shapes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GPT2Config, PreTrainedTokenizerBase

from agentrefine.base_model.base import make_reference
from agentrefine.params import load_params
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.models import load_tokenizer
from tests.helpers.errors import refused
from tests.helpers.tiny_model import tiny_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(["key", "hall", "take"], ["take key in hall ."])


def saved(
    folder: Path, change: Callable[[Any], None] = lambda _: None, rows: int | None = None, **settings: Any
) -> Path:
    """A model of as many embeddings as the tokenizer has tokens, and the tokenizer after a change."""
    made = tokenizer()
    tiny_model(made, 0, **({"vocab_size": rows} if rows else {}), **settings).save_pretrained(folder)
    change(made)
    made.save_pretrained(folder)
    return folder


def configured(folder: Path, file: str = "config.json", **values: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def made(folder: Path) -> dict[str, Any]:
    """The card that the stage base_model writes."""
    params = load_params(Path("params.yaml")).base_model.model_copy(update={"path": str(folder), "chat_template": None})
    make_reference(params, folder.parent / "base")
    card: dict[str, Any] = json.loads((folder.parent / "base" / "card.json").read_text())
    return card


def add_words(given: Any) -> None:
    given.add_tokens(["extra0", "extra1"])


def add_special(given: Any) -> None:
    given.add_special_tokens({"additional_special_tokens": ["<image>"]})


def use_chatml(given: Any) -> None:
    given.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    given.chat_template = CHATML


def end_with_new_token(given: Any) -> None:
    given.add_special_tokens({"eos_token": "<|over|>"})


def pad_with_new_token(given: Any) -> None:
    given.add_special_tokens({"pad_token": "<|nothing|>"})


@pytest.mark.parametrize(
    ("change", "token"),
    [
        (add_words, "'extra0' of the tokenizer"),
        (use_chatml, "'<|im_start|>' of the chat template"),
        (end_with_new_token, r"'<|over|>' (eos_token)"),
        (pad_with_new_token, r"'<|nothing|>' (pad_token)"),
    ],
)
def test_a_token_without_an_embedding_is_refused_by_name_and_passes_once_there_is_one(tmp_path, change, token):
    rows = len(tokenizer())
    with refused("no_embedding", token=token, id=rows, embeddings=rows):
        made(saved(tmp_path / "model", change))
    assert not (tmp_path / "base").exists()
    assert made(saved(tmp_path / "larger", change, rows=rows + 8))["kind"] == "reference"


def test_a_special_token_that_nothing_writes_needs_no_embedding_and_is_said(tmp_path):
    remarks = made(saved(tmp_path / "model", add_special))["chat_template"]
    assert any("1 special tokens have no embedding (<image>)" in remark for remark in remarks)


def test_a_model_with_more_embeddings_than_tokens_is_usual(tmp_path):
    remarks = made(saved(tmp_path / "model", rows=len(tokenizer()) + 64))["chat_template"]
    assert not any("embedding" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("file", "values", "code", "named"),
    [
        ("config.json", {"vocab_size": 8}, "shapes_mismatched", {}),
        ("config.json", {"hidden_size": 64}, "shapes_mismatched", {}),
        ("config.json", {"pad_token_id": 10**6}, "no_embedding", {"key": "pad_token_id"}),
        ("config.json", {"eos_token_id": 10**6}, "no_embedding", {"key": "eos_token_id", "id": 10**6}),
        ("generation_config.json", {"eos_token_id": [1, 10**6]}, "no_embedding", {"key": "eos_token_id", "id": 10**6}),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_one_sentence(tmp_path, file, values, code, named):
    folder = configured(saved(tmp_path / "model"), file, **values)
    with refused(code, file=file, **named):
        made(folder)


def test_texts_are_cut_at_the_positions_that_the_model_has(tmp_path):
    folder = saved(tmp_path / "model", max_position_embeddings=96)
    assert load_tokenizer(folder).model_max_length > 96
    assert any("96 positions" in remark for remark in made(folder)["chat_template"])
    assert AutoTokenizer.from_pretrained(tmp_path / "base").model_max_length == 96


def test_learned_positions_count_too(tmp_path):
    folder = saved(tmp_path / "model", kind=GPT2Config, n_positions=96)
    made(folder)
    assert AutoTokenizer.from_pretrained(tmp_path / "base").model_max_length == 96
