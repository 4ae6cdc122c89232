"""Refinement tuning: cross-entropy on the tokens of correct turns only (paper, section 3.3), by TRL's SFTTrainer."""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from pydantic import BaseModel
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback

from agentrefine.files import atomic_folder, sha256_file, write_json
from agentrefine.params.tuning import Loss, TuningParams
from agentrefine.tuning.models import CARD, LoadedModel, load_base, model_digest, on_device
from agentrefine.tuning.progress import LossCurve, LossPoint, TokenBar
from agentrefine.tuning.rendering import MASKED
from agentrefine.tuning.replicas import ReplicaJob, replicas
from agentrefine.tuning.samples import RenderingCounts, rendered_rows
from agentrefine.tuning.sft import Model, make_trainer, weights_dtype, with_adapter

CURVE_POINTS = 100
"""About how many points a loss curve has."""


class TuningResult(BaseModel):
    """What tuning did.

    Attributes:
        loss: which turns were trained.
        parameters, trainable_parameters: of the model.
        rendering: samples, turns and tokens of the training file.
        steps: optimizer steps.
        tokens: read in all epochs.
        trained_tokens: of these, those with a label.
        seconds: of the training loop alone.
        tokens_per_second: `tokens` by `seconds`.
        train_loss: mean over the last tenth of the steps, nats per trained token.
        validation_loss_before, validation_loss: of the base and of the tuned model, nats per trained token; None
            without validation samples.
        curve: the training loss over steps and tokens.
    """

    loss: Loss
    parameters: int
    trainable_parameters: int
    rendering: RenderingCounts
    steps: int
    tokens: int
    trained_tokens: int
    seconds: float
    tokens_per_second: float
    train_loss: float
    validation_loss_before: float | None
    validation_loss: float | None
    curve: list[LossPoint]


def tune(
    loss: Loss,
    data_set: Path,
    base: str | Path,
    out: Path,
    params: TuningParams,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> TuningResult:
    """Tune `base` on the samples of `data_set` and write the model, or its adapter, to the folder `out`.

    Args:
        loss: which turns are trained (see `agentrefine.tuning.masking`).
        data_set: a folder with `train.jsonl` and `validation.jsonl` of `agentrefine.conversation.Sample`.
        base: a folder made by the base_model stage, another local folder, or a hub id.
        out: replaced as a whole once everything is written.
        params: the section `tuning` of params.yaml.
        seed: of the order of samples and of adapter weights; equal seeds give equal bytes on equal hardware.
        callbacks: further callbacks of the trainer, such as one that logs to a tracking server.

    Raises:
        UserError: a bad data set, base, chat template or parameter; a full disk.
    """
    datasets.disable_progress_bars()
    processes = 1 if torch.cuda.is_available() else params.cpu_processes
    with (
        atomic_folder(out) as folder,
        tempfile.TemporaryDirectory(prefix="agentrefine-tuning-") as cache,
        replicas(processes) as others,
    ):
        loaded = load_base(base, weights_dtype(params))
        rows, counts = rendered_rows(
            data_set / "train.jsonl", loaded.tokenizer, loss, params.max_length, Path(cache) / "train"
        )
        validation = _validation_rows(data_set, loaded, loss, params, Path(cache))
        model = with_adapter(on_device(loaded.model), base, params, seed)
        loss_before = masked_loss(model, validation) if validation else None
        curve = LossCurve()
        bar = TokenBar(counts.tokens * params.epochs, out.name)
        files = [Path(file["filename"]) for file in rows.cache_files]
        others.begin(ReplicaJob(base=str(base), rows=files, counts=counts, params=params, seed=seed))
        scratch, watching = Path(cache) / "trainer", [curve, bar, *callbacks]
        try:
            trainer = make_trainer(model, loaded.tokenizer, rows, counts, params, seed, scratch, watching)
            began = time.monotonic()
            trainer.train()
        except RuntimeError as error:
            raise others.explain(error) from error
        seconds = time.monotonic() - began
        result = TuningResult(
            loss=loss,
            parameters=sum(p.numel() for p in model.parameters()),
            trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            rendering=counts,
            steps=trainer.state.global_step,
            tokens=counts.tokens * params.epochs,
            trained_tokens=counts.trained_tokens * params.epochs,
            seconds=seconds,
            tokens_per_second=counts.tokens * params.epochs / seconds,
            train_loss=curve.last_tenth(),
            validation_loss_before=loss_before,
            validation_loss=masked_loss(model, validation) if validation else None,
            curve=curve.thinned(CURVE_POINTS),
        )
        _save(model, folder)
        loaded.tokenizer.save_pretrained(folder)
        write_json(folder / CARD, _card(result, data_set, base, params, seed))
    return result


def masked_loss(model: Model, rows: Dataset, batch_size: int = 8) -> float:
    """Mean cross-entropy over the tokens that have a label, nats per token."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in rows.iter(batch_size):
            ids = pad_sequence([torch.tensor(x) for x in batch["input_ids"]], batch_first=True).to(device)
            labels = pad_sequence([torch.tensor(x) for x in batch["labels"]], batch_first=True, padding_value=MASKED)
            mask = pad_sequence([torch.ones(len(x), dtype=torch.long) for x in batch["input_ids"]], batch_first=True)
            logits = model(input_ids=ids, attention_mask=mask.to(device), use_cache=False).logits
            target = labels[:, 1:].to(device)
            total += float(
                cross_entropy(logits[:, :-1].transpose(1, 2).float(), target, ignore_index=MASKED, reduction="sum")
            )
            count += int((target != MASKED).sum())
    model.train(was_training)
    return total / count


def _validation_rows(
    data_set: Path, loaded: LoadedModel, loss: Loss, params: TuningParams, cache: Path
) -> Dataset | None:
    file = data_set / "validation.jsonl"
    if file.is_file() and file.stat().st_size == 0:
        return None
    rows, _ = rendered_rows(file, loaded.tokenizer, loss, params.max_length, cache / "validation")
    return rows


def _save(model: Model, folder: Path) -> None:
    """Write the weights; an adapter's configuration without what differs between equal runs (the order of a set)."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        config = json.loads(adapter.read_text(encoding="utf-8"))
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        write_json(adapter, config)


def _card(result: TuningResult, data_set: Path, base: str | Path, params: TuningParams, seed: int) -> dict[str, Any]:
    """What the model is and how it came about; equal for equal runs, so without times."""
    return {
        "kind": "tuned",
        "loss": result.loss,
        "base": str(base),
        "base_digest": model_digest(base),
        "data_set": str(data_set),
        "data_set_sha256": {file: sha256_file(data_set / file) for file in ("train.jsonl", "validation.jsonl")},
        "seed": seed,
        "params": params.model_dump(exclude={"variants"}),
        **result.model_dump(
            include={
                "parameters",
                "trainable_parameters",
                "rendering",
                "steps",
                "tokens",
                "trained_tokens",
                "train_loss",
                "validation_loss_before",
                "validation_loss",
            }
        ),
    }
