"""A full disk or a full memory while a model is tuned: one sentence, and what was there before stays."""

import math
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from agentrefine.params.tuning import TuningParams
from agentrefine.tuning import hardware
from agentrefine.tuning.hardware import check_hardware
from agentrefine.tuning.train import tune
from tests.helpers.errors import refused
from tests.helpers.small_disk import small_disk_at
from tests.helpers.tuning_samples import job, write_data_set


class TakesMemory(TrainerCallback):
    """Asks for more memory than there is once two steps are done."""

    def on_step_end(self, args, state, control, **kwargs):
        """Ask."""
        if state.global_step == 2:
            torch.empty(2**60, dtype=torch.uint8)


def test_the_sentence_of_a_full_memory_names_the_settings_that_need_less(base, data_set, tmp_path):
    with refused("out_of_memory", stage="tuning") as caught:
        tune(job(base, data_set), tmp_path / "out", [TakesMemory()])
    assert "lower tuning.batch_tokens" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_with_checkpoints_is_one_sentence_and_tuning_goes_on_later(base, data_set, tmp_path):
    whole = job(base, data_set, tmp_path / "disk" / "checkpoints", epochs=2, checkpoint_steps=5)
    with small_disk_at(tmp_path / "disk", "700k"):
        with refused("disk_full", stage="tuning"):
            tune(whole, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=10m", str(tmp_path / "disk")], check=True)
        result = tune(whole, tmp_path / "out")
    assert result.resumed_at > 0
    assert result.resumed_at % 5 == 0
    assert result.steps == 40


@pytest.mark.parametrize("samples", ["with validation samples", "without"])
def test_a_training_that_diverges_ends_with_its_step_and_leaves_no_model(base, tmp_path, samples):
    games = write_data_set(tmp_path / "data", validation=6 if samples == "with validation samples" else 0)
    with refused("training_diverged") as caught:
        tune(job(base, games, learning_rate=1e30, muon_learning_rate=None), tmp_path / "out")
    assert isinstance(caught.value.values["step"], int)
    assert math.isnan(caught.value.values["found"])
    assert not (tmp_path / "out").exists()


def test_keeping_the_best_wants_validation_samples(base, tmp_path):
    data = write_data_set(tmp_path / "data", samples=4, validation=0)
    with refused("no_samples", key="tuning.keep_best", file=data / "validation.jsonl"):
        tune(job(base, data, keep_best=True), tmp_path / "out")


def test_early_stopping_wants_validation_samples(base, tmp_path):
    games = write_data_set(tmp_path / "data", validation=0)
    stopping = {"early_stopping": {"patience": 1, "min_delta": 0.0}}
    with refused("no_samples", key="tuning.early_stopping", file=games / "validation.jsonl"):
        tune(job(base, games, **stopping), tmp_path / "out")


def test_several_gpus_want_a_launcher(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with refused("bad_value", key="tuning.launcher", gpus=4):
        check_hardware(job(Path("no base"), Path("no data")).params)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
@pytest.mark.parametrize(
    ("setting", "code", "values"),
    [
        ({"attention": "flash_attention_2"}, "gpu_missing", {"key": "tuning.attention", "value": "flash_attention_2"}),
        ({"liger_kernel": True}, "gpu_missing", {"key": "tuning.liger_kernel"}),
        ({"method": "qlora"}, "not_installed", {"key": "tuning.method", "name": "bitsandbytes"}),
    ],
)
def test_settings_that_the_machine_cannot_serve_are_refused_before_anything_is_loaded(
    monkeypatch, setting, code, values
):
    monkeypatch.setattr(hardware, "find_spec", lambda _: None)
    params = job(Path("no base"), Path("no data"), **setting).params
    assert isinstance(params, TuningParams)
    with refused(code, **values):
        check_hardware(params)
