"""Base models from GGUF files: what becomes of them, and which are refused."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, LlamaFileType, quants

from agentrefine.base_model.base import BaseResult, make_base
from agentrefine.base_model.gguf import read_gguf, read_model
from agentrefine.errors import UserError
from agentrefine.files import sha256_file
from agentrefine.game.conversation import Message
from agentrefine.params import load_params
from agentrefine.params.tuning import BaseModelParams
from agentrefine.tuning.cards import GgufCard, quantisation_of, read_card
from agentrefine.tuning.chat_template import prompt_ids, render
from agentrefine.tuning.models import load_base, load_tokenizer, load_tuned, resolve
from agentrefine.tuning.train import tune
from tests.helpers.errors import refused
from tests.helpers.gguf_files import MERGES, SYSTEM, small_llama, write_empty_gguf, write_gguf
from tests.helpers.small_disk import small_disk_at
from tests.helpers.tuning_samples import job, write_data_set

BASE_MODEL = load_params(Path("params.yaml")).base_model
OUT = "models/base"


def params(path: Path) -> BaseModelParams:
    return BASE_MODEL.model_copy(update={"path": str(path)})


def made(path: Path, folder: Path) -> BaseResult:
    return make_base(params(path), 7, folder / OUT)


def check_refused(path: Path, folder: Path, code: str, **values: object) -> None:
    """A file is refused by its name; nothing is written."""
    with refused(code, file=path, **values):
        made(path, folder)
    assert not (folder / "models").exists() or not list((folder / "models").iterdir())


def test_a_quantised_file_becomes_a_folder_with_its_dequantised_weights(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "small.Q4_1.gguf")
    result = made(file, tmp_path)
    model, tokenizer = load_base(tmp_path / OUT)
    stored = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    down = quants.dequantize(stored["blk.1.ffn_down.weight"].data, GGMLQuantizationType.Q4_1)
    kept = model.get_parameter("model.layers.1.mlp.down_proj.weight")
    assert torch.equal(kept, torch.from_numpy(down).to(torch.bfloat16).float())
    assert result.parameters == model.num_parameters() == small_llama().num_parameters()
    assert tokenizer.model_max_length == 8192
    card = read_card(tmp_path / OUT)
    assert isinstance(card, GgufCard)
    assert card.path == str(file)
    assert card.sha256 == sha256_file(file)
    assert card.quantisation == quantisation_of(read_card(tmp_path / OUT)) == "Q4_1"
    assert card.tensor_types == {"Q4_1": 15, "F32": 5}
    assert card.dtype == "bfloat16"


@pytest.mark.parametrize(("kind", "dtype"), [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")])
def test_a_file_that_is_not_quantised_keeps_its_numbers_and_gives_the_same_logits(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    original = small_llama()
    with torch.no_grad():
        for weight in original.parameters():
            weight.copy_(weight.to(getattr(torch, dtype)))
    file_type = LlamaFileType.ALL_F32 if kind == "F32" else LlamaFileType[f"MOSTLY_{kind}"]
    made(write_gguf(tmp_path / "small.gguf", original, GGMLQuantizationType[kind], file_type), tmp_path)
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        assert torch.allclose(load_base(tmp_path / OUT).model(ids).logits, original(ids).logits, atol=1e-5)
    assert quantisation_of(read_card(tmp_path / OUT)) is None
    assert read_card(tmp_path / OUT).dtype == dtype


@pytest.mark.parametrize("file_type", [None, LlamaFileType.GUESSED, LlamaFileType.MOSTLY_F16])
def test_where_the_file_does_not_say_its_quantisation_its_tensors_do(
    tmp_path: Path, file_type: LlamaFileType | None
) -> None:
    file = read_gguf(write_gguf(tmp_path / "small.gguf", kind=GGMLQuantizationType.Q8_0, file_type=file_type))
    assert file.quantisation == "Q8_0"
    assert file.is_quantised


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "small.gguf")
    for name in ("one", "two"):
        make_base(params(file), 7, tmp_path / name)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert "model.safetensors" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_digits_are_tokens_of_their_own_where_the_model_learned_them_so(tmp_path: Path) -> None:
    made(write_gguf(tmp_path / "small.gguf"), tmp_path)
    assert load_tokenizer(tmp_path / OUT).tokenize("the 12  3") == ["the", "Ġ", "1", "2", "Ġ", "Ġ", "3"]
    assert "Ġ 1" in MERGES


def test_a_split_that_transformers_does_not_know_is_remarked(tmp_path: Path) -> None:
    result = made(write_gguf(tmp_path / "small.gguf", pre="unheard-of"), tmp_path)
    assert any("'unheard-of'" in remark for remark in result.remarks)


def test_the_default_system_prompt_is_named_and_stands_in_training_as_in_play(tmp_path: Path) -> None:
    result = made(write_gguf(tmp_path / "small.gguf"), tmp_path)
    assert any(SYSTEM in remark for remark in result.remarks)
    assert any(SYSTEM in remark for remark in read_card(tmp_path / OUT).chat_template)
    tokenizer = load_tokenizer(tmp_path / OUT)
    messages = [
        Message(role="user", content="Go."),
        Message(role="assistant", content="Thought: a\nAction: b", loss=True),
    ]
    trained = render(tokenizer, messages, "correct_turns")
    played = prompt_ids(tokenizer, messages[:1])
    assert trained.ids[: len(played)] == played
    assert tokenizer.decode(played) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert all(label == -100 for label in trained.labels[: len(played)])


def test_a_model_without_a_chat_template_takes_ours_and_says_so(tmp_path: Path) -> None:
    result = made(write_gguf(tmp_path / "small.gguf", template=None), tmp_path)
    assert any("has no chat template" in remark for remark in result.remarks)
    assert "<|assistant|>" in load_tokenizer(tmp_path / OUT).chat_template


def test_a_tuned_model_knows_what_its_base_was_dequantised_from(tmp_path: Path) -> None:
    made(write_gguf(tmp_path / "small.gguf"), tmp_path)
    data = write_data_set(tmp_path / "data", samples=8, validation=2)
    tune(job(tmp_path / OUT, data, max_length=1024, batch_tokens=4096, muon_learning_rate=None), tmp_path / "tuned")
    assert quantisation_of(read_card(tmp_path / "tuned")) == "Q4_1"
    assert load_tuned(tmp_path / "tuned").model.num_parameters() == small_llama().num_parameters()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(share * len(whole))])
    check_refused(tmp_path / "cut.gguf", tmp_path, "file_damaged" if share > 0 else "not_gguf")


def test_whatever_a_files_bytes_are_it_is_read_or_refused(tmp_path: Path) -> None:
    """Every error that the reading libraries raise on broken bytes is turned into a sentence."""
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    rng = random.Random(0)
    table_end = whole.index(b"output_norm.weight") + 60
    refusals = 0
    for number in range(120):
        broken = bytearray(whole)
        if number % 3 == 0:
            del broken[rng.randrange(8, len(whole)) :]
        else:
            for _ in range(rng.choice([1, 4])):
                broken[rng.randrange(4, table_end)] = rng.randrange(256)
        (tmp_path / "broken.gguf").write_bytes(broken)
        try:
            read_model(read_gguf(tmp_path / "broken.gguf"))
        except UserError:
            refusals += 1
    assert refusals > 40


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("a model\n")
    check_refused(tmp_path / "text.gguf", tmp_path, "not_gguf")
    check_refused(tmp_path / "none.gguf", tmp_path, "file_missing")


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"architecture": "bert"}, {"held": "a model of the architecture bert"}),
        ({"architecture": "clip"}, {"held": "a model of the architecture clip"}),
        ({"architecture": "rwkv6"}, {"architecture": "rwkv6"}),
        ({"general__type": "adapter"}, {"held": "a LoRA adapter"}),
        ({"general__type": "mmproj"}, {"held": "a projector of images or sounds"}),
        ({"split__count": 3}, {"parts": 3}),
        ({"without": "blk.1.ffn_down.weight"}, {"missing": 1, "weight": "model.layers.1.mlp.down_proj.weight"}),
        ({"tokenizer": "rwkv"}, {"part": "tokenizer"}),
    ],
)
def test_a_file_that_holds_no_whole_language_model_is_refused(
    tmp_path: Path, changes: dict[str, str], values: dict[str, object]
) -> None:
    check_refused(write_gguf(tmp_path / "small.gguf", **changes), tmp_path, "model_unusable", **values)


def test_a_vocabulary_without_weights_is_refused(tmp_path: Path) -> None:
    file = write_empty_gguf(tmp_path / "vocab.gguf")
    check_refused(file, tmp_path, "model_unusable", held="a vocabulary without weights")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    spoiled = small_llama()
    with torch.no_grad():
        spoiled.model.norm.weight[3] = np.nan
    file = write_gguf(tmp_path / "small.gguf", spoiled)
    check_refused(file, tmp_path, "file_damaged", weight="model.norm.weight")


def test_a_template_that_cannot_be_trained_on_is_refused_by_the_files_name(tmp_path: Path) -> None:
    template = "{{ messages[-1]['content'] }}"
    with refused("template_untrainable", model=str(tmp_path / "small.gguf")):
        made(write_gguf(tmp_path / "small.gguf", template=template), tmp_path)
    assert not (tmp_path / OUT).exists()


def test_a_full_disk_while_a_file_is_converted_leaves_nothing(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "small.gguf")
    for size in ("16k", "64k", "128k"):
        with small_disk_at(tmp_path / size, size):
            try:
                make_base(params(file), 7, tmp_path / size / "base")
            except UserError as error:
                assert error.code == "disk_full"  # noqa: PT017
                assert list((tmp_path / size).iterdir()) == []
            else:
                pytest.fail(f"a disk of {size} holds the whole model")


def test_a_gguf_file_in_another_place_than_base_model_path_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "small.gguf")
    with refused("model_unusable", model=str(file), key="base_model.path"):
        resolve(file)
