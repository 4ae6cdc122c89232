"""What a GPU computes instead of what a CPU does, computed on a CPU: the same loss and the same gradients."""

from pathlib import Path

import pytest
import torch

from agentrefine.tuning.data import rendered_rows
from agentrefine.tuning.models import load_base
from agentrefine.tuning.trainer import RefinementTrainer, training_arguments
from tests.helpers.tuning_samples import job


def trainer_for(base: Path, data_set: Path, folder: Path, **changes: object) -> RefinementTrainer:
    tuning = job(base, data_set, **{"muon_learning_rate": None, **changes})
    model, tokenizer = load_base(base)
    rows, _ = rendered_rows(data_set / "train.jsonl", tokenizer, "correct_turns", 256, folder / "rows")
    arguments = training_arguments(
        tuning.params, rows, 0, validates=False, keep_checkpoints=False, folder=str(folder / "out")
    )
    return RefinementTrainer(model, tokenizer, rows, None, tuning.params, arguments)


def loss_and_gradients(trainer: RefinementTrainer, inputs: dict, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, dict(inputs), num_items_in_batch=labels)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("padding_free", [False, True])
def test_the_loss_for_a_gpu_needs_no_attention_mask_and_is_that_of_a_cpu(
    base, data_set, tmp_path, monkeypatch, padding_free
):
    trainer = trainer_for(base, data_set, tmp_path, padding_free=padding_free)
    inputs = next(iter(trainer.get_train_dataloader()))
    if not padding_free:
        assert not inputs["attention_mask"].all()  # some rows are padded
    labels = (inputs["labels"][:, 1:] != -100).sum()
    loss, gradients = loss_and_gradients(trainer, inputs, labels)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu_loss, gpu_gradients = loss_and_gradients(trainer, inputs, labels)
    assert gpu_loss == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(gpu_gradients, gradients, atol=1e-5, rtol=1e-3)
