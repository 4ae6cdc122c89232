"""The masked loss and its gradient do not depend on how rows are put into batches, nor on who computes them."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback
from trl import SFTTrainer

from agentrefine.tuning.chat_template import render
from agentrefine.tuning.models import load_base, load_tuned
from agentrefine.tuning.train import tune
from agentrefine.tuning.trainer import RefinementTrainer
from tests.helpers.tuning_samples import conversation, job, write_base, write_data_set

SAMPLES = 64
ONE_STEP = {"batch_tokens": 10**6, "max_length": 4096, "muon_learning_rate": None, "learning_rate": 1e-9}
WAYS = {
    "unpacked": {},
    "packed": {"packing": True, "max_length": 512},
    "padding-free": {"padding_free": True},
    "accumulated over 4 passes": {"gradient_accumulation_steps": 4},
    "packed and accumulated": {"packing": True, "max_length": 512, "gradient_accumulation_steps": 3},
    "activations computed again": {"activation_checkpointing": True},
    "eager attention": {"attention": "eager"},
    "two processes": {"cpu_processes": 2},
    "two processes, accumulated": {"cpu_processes": 2, "gradient_accumulation_steps": 2},
}


class GradientNorm(TrainerCallback):
    """The norm of the gradient of each step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_log(self, args, state, control, **kwargs):
        """Keep it."""
        if "grad_norm" in kwargs["logs"]:
            self.norms.append(kwargs["logs"]["grad_norm"])


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("dataset"), samples=SAMPLES)


@pytest.fixture(scope="module")
def by_hand(base) -> tuple[float, float]:
    """Loss and gradient norm of all samples, one conversation at a time, without a library's help."""
    model, tokenizer = load_base(base)
    rows = [render(tokenizer, conversation(number), "correct_turns") for number in range(SAMPLES)]
    labels = sum(label != -100 for row in rows for label in row.labels)
    total = 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        trained = [position for position, label in enumerate(row.labels) if label != -100]
        targets = torch.tensor([row.ids[position] for position in trained])
        loss = cross_entropy(logits[[position - 1 for position in trained]], targets, reduction="sum") / labels
        loss.backward()
        total += loss.item()
    return total, math.sqrt(sum(p.grad.pow(2).sum().item() for p in model.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_loss_and_gradient_are_those_computed_by_hand(base, data_set, by_hand, tmp_path, way):
    norms = GradientNorm()
    result = tune(job(base, data_set, **{**ONE_STEP, **WAYS[way]}), tmp_path / "out", [norms])
    assert result.steps == 1
    assert result.curve[0].loss == pytest.approx(by_hand[0], abs=1e-4)
    assert norms.norms[0] == pytest.approx(by_hand[1], rel=1e-4)


@pytest.mark.parametrize("packing", [False, True])
def test_trls_own_loss_is_the_same(base, data_set, by_hand, tmp_path, monkeypatch, packing):
    monkeypatch.setattr(RefinementTrainer, "compute_loss", SFTTrainer.compute_loss)
    norms = GradientNorm()
    result = tune(job(base, data_set, **{**ONE_STEP, "packing": packing, "max_length": 512}), tmp_path / "out", [norms])
    assert result.curve[0].loss == pytest.approx(by_hand[0], abs=1e-4)
    assert norms.norms[0] == pytest.approx(by_hand[1], rel=1e-4)


@pytest.mark.parametrize("unpadded", ["packing", "padding_free"])
def test_tokens_are_counted_also_where_the_end_of_a_turn_is_the_padding(data_set, tmp_path, unpadded):
    base = write_base(tmp_path / "base")
    settings = tmp_path / "base" / "tokenizer_config.json"
    config = json.loads(settings.read_text())
    settings.write_text(json.dumps({**config, "pad_token": config["eos_token"]}))
    result = tune(job(base, data_set, **{unpadded: True, "max_length": 512}), tmp_path / "out")
    assert result.tokens == result.rendering.tokens
    assert result.trained_tokens == result.rendering.trained_tokens


@pytest.mark.slow
@pytest.mark.parametrize("way", ["two processes", "accumulated over 4 passes", "packed"])
def test_the_whole_loss_curve_is_that_of_one_process(base, data_set, tmp_path, way):
    settings = {"epochs": 3, "batch_tokens": 2000, "muon_learning_rate": None, "max_length": 512}
    packed = {"packing": way == "packed"}
    alone = tune(job(base, data_set, **settings, **packed), tmp_path / "alone")
    changed = {**settings, **packed, **({"cpu_processes": 2} if way == "packed" else WAYS[way])}
    other = tune(job(base, data_set, **changed), tmp_path / "other")
    assert [point.tokens for point in other.curve] == [point.tokens for point in alone.curve]
    assert [point.loss for point in other.curve] == pytest.approx([point.loss for point in alone.curve], abs=1e-4)
    assert other.validation_loss == pytest.approx(alone.validation_loss, abs=1e-4)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_an_adapter_scores_the_same_merged_and_unmerged(base, data_set, tmp_path, kind):
    lora = {
        "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear",
        "use_rslora": kind == "rslora", "use_dora": kind == "dora",
    }  # fmt: skip
    settings = {"method": "lora", "lora": lora, "muon_learning_rate": None, "learning_rate": 0.02, "epochs": 2}
    result = tune(job(base, data_set, **settings), tmp_path / "adapter")
    unmerged = PeftModel.from_pretrained(load_base(base).model, str(tmp_path / "adapter")).eval()
    merged, tokenizer = load_tuned(tmp_path / "adapter")
    for number in range(60, 66):
        ids = torch.tensor([render(tokenizer, conversation(number), "correct_turns").ids])
        with torch.no_grad():
            one, other = unmerged(input_ids=ids).logits, merged(input_ids=ids).logits
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert result.validation_loss < result.validation_loss_before
