"""A full disk or a full memory while a model is tuned: one sentence, and what was there before stays."""

import subprocess
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from agentrefine.errors import UserError
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning import hardware
from agentrefine.tuning.hardware import check_hardware
from agentrefine.tuning.train import tune
from tests.helpers.small_disk import small_disk_at
from tests.helpers.tuning_samples import job, write_data_set


class TakesMemory(TrainerCallback):
    """Asks for more memory than there is once two steps are done."""

    def on_step_end(self, args, state, control, **kwargs):
        """Ask."""
        if state.global_step == 2:
            torch.empty(2**60, dtype=torch.uint8)


def test_a_full_memory_names_the_settings_that_need_less(base, data_set, tmp_path):
    with pytest.raises(UserError, match=r"^tuning: memory ran out .*lower tuning\.batch_tokens") as caught:
        tune(job(base, data_set), tmp_path / "out", [TakesMemory()])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_with_checkpoints_is_one_sentence_and_tuning_goes_on_later(base, data_set, tmp_path):
    whole = job(base, data_set, tmp_path / "disk" / "checkpoints", epochs=2, checkpoint_steps=5)
    with small_disk_at(tmp_path / "disk", "700k"):
        with pytest.raises(UserError, match=r"^tuning: the disk is full; free some space and run the same command"):
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
    with pytest.raises(UserError, match=r"of step \d+ is nan, the training has diverged; lower tuning\.learning_rate"):
        tune(job(base, games, learning_rate=1e30, muon_learning_rate=None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_keeping_the_best_wants_validation_samples(base, tmp_path):
    data = write_data_set(tmp_path / "data", samples=4, validation=0)
    with pytest.raises(UserError, match=r"tuning\.keep_best: looks at the validation samples, .*; set it to false\."):
        tune(job(base, data, keep_best=True), tmp_path / "out")


def test_early_stopping_wants_validation_samples(base, tmp_path):
    games = write_data_set(tmp_path / "data", validation=0)
    stopping = {"early_stopping": {"patience": 1, "min_delta": 0.0}}
    with pytest.raises(UserError, match=r"tuning\.early_stopping: looks at the validation samples, and .* holds none"):
        tune(job(base, games, **stopping), tmp_path / "out")


def test_several_gpus_want_a_launcher(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=r"tuning\.launcher: there are 4 GPUs and one process"):
        check_hardware(job(Path("no base"), Path("no data")).params)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"attention": "flash_attention_2"}, r"tuning\.attention: flash_attention_2 needs an NVIDIA GPU"),
        ({"liger_kernel": True}, r"tuning\.liger_kernel: Liger's kernels need a GPU"),
        ({"method": "qlora"}, r"tuning\.method: qlora needs bitsandbytes; pip install"),
    ],
)
def test_settings_that_the_machine_cannot_serve_are_refused_before_anything_is_loaded(monkeypatch, setting, said):
    monkeypatch.setattr(hardware, "find_spec", lambda _: None)
    params = job(Path("no base"), Path("no data"), **setting).params
    assert isinstance(params, TuningParams)
    with pytest.raises(UserError, match=said):
        check_hardware(params)
