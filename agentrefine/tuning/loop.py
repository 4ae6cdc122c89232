"""The part of tuning that every process takes part in: load, render, train, score, gather the weights."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_pt_utils import get_model_param_count

from agentrefine.errors import UserError
from agentrefine.tuning.data import rendered_rows
from agentrefine.tuning.hardware import check_hardware
from agentrefine.tuning.job import TuningJob, quantization, training_arguments, weights_dtype
from agentrefine.tuning.models import load_base, load_tokenizer
from agentrefine.tuning.results import LossPoint, RenderingCounts, ValidationPoint
from agentrefine.tuning.trainer import (
    Model,
    RefinementTrainer,
    curve_of,
    make_trainer,
    remove_others,
    validation_curve_of,
    with_adapter,
)


@dataclass(frozen=True)
class Trained:
    """What the processes trained together.

    Attributes:
        parameters, trainable_parameters: of the model, also where the processes hold it in pieces.
        model: with the tuned weights; sharded models only hold a part of them.
        weights: all of them, on the first process; None where `model` holds them.
        tokenizer: the model's.
        rendering: samples, turns and tokens of the training file.
        steps: optimizer steps, those before an interruption included.
        resumed_at: the step of the checkpoint that training went on at; 0 if it began anew.
        tokens: read, padding left out.
        seconds: of the training loop since it began or went on.
        tokens_per_second: over these seconds.
        curve: the training loss of every step.
        validation_curve: looks at the validation samples, from the base to the last one; empty without such samples.
        validation_loss: of the tuned model, nats per trained token; None without validation samples.
    """

    parameters: int
    trainable_parameters: int
    model: Model
    weights: dict[str, torch.Tensor] | None
    tokenizer: PreTrainedTokenizerBase
    rendering: RenderingCounts
    steps: int
    resumed_at: int
    tokens: int
    seconds: float
    tokens_per_second: float
    curve: list[LossPoint]
    validation_curve: list[ValidationPoint]
    validation_loss: float | None


def is_first_process() -> bool:
    """Whether this process writes, logs and shows; torchrun and accelerate number the others from 1."""
    return int(os.environ.get("RANK", "0")) == 0


def train(
    job: TuningJob,
    scratch: Path,
    *,
    callbacks: Callable[[RenderingCounts], Sequence[TrainerCallback]] = lambda _: (),
    ready: Callable[[], None] = lambda: None,
) -> Trained:
    """Tune a model as one of the processes that the environment names (torchrun's way), or alone.

    Args:
        job: the same for every process.
        scratch: an empty folder of this process.
        callbacks: of the trainer, made once it is known what there is to read.
        ready: called when the rows are rendered, before the model is loaded; returns when the others are as far.

    Raises:
        UserError: a bad data set, base, chat template or parameter.
    """
    datasets.disable_progress_bars()
    params = job.params
    check_hardware(params)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    tokenizer = load_tokenizer(job.base)
    rows, counts = rendered_rows(
        job.data_set / "train.jsonl", tokenizer, job.loss, params.max_length, scratch / "train"
    )
    validation = _validation_rows(job, tokenizer, scratch / "validation")
    ready()
    arguments = training_arguments(
        params, rows, job.seed,
        validates=validation is not None, keep_checkpoints=job.checkpoints is not None,
        folder=str(scratch / "checkpoints"),
    )  # fmt: skip
    if job.checkpoints is not None:
        arguments.output_dir = _checkpoint_folder(job, job.checkpoints)
    # After the arguments: with FSDP and DeepSpeed one process reads the weights, and the others get their part.
    base = load_base(job.base, weights_dtype(params), params.attention, quantization(params)).model
    model = with_adapter(base, job.base, params, job.seed)
    # As many games share a step, whether their mistakes are cut out or not: variants on the same games take the same
    # number of steps.
    step_tokens = round(params.batch_tokens * counts.tokens / counts.whole_tokens)
    stepped = params.model_copy(update={"batch_tokens": step_tokens})
    trainer = make_trainer(model, tokenizer, rows, validation, stepped, arguments, callbacks(counts))
    checkpoint = trainer.newest_checkpoint() if job.checkpoints else None
    trainer.args.eval_on_start = validation is not None and checkpoint is None
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.monotonic() - began
    resumed_at = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    curve = curve_of(trainer.state)
    before = next((point.tokens for point in curve if point.step == resumed_at), 0)
    return Trained(
        parameters=get_model_param_count(trainer.model),
        trainable_parameters=get_model_param_count(trainer.model, trainable_only=True),
        model=model,
        weights=_gathered_weights(trainer),
        tokenizer=tokenizer,
        rendering=counts,
        steps=trainer.state.global_step,
        resumed_at=resumed_at,
        tokens=curve[-1].tokens,
        seconds=seconds,
        tokens_per_second=(curve[-1].tokens - before) / seconds,
        curve=curve,
        validation_curve=validation_curve_of(trainer.state),
        validation_loss=trainer.evaluate()["eval_loss"] if validation is not None else None,
    )


def processes(job: TuningJob) -> int:
    """How many processes tune together: what the environment says, else one on a GPU, else `cpu_processes`."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return 1 if torch.cuda.is_available() else job.params.cpu_processes


def _checkpoint_folder(job: TuningJob, root: Path) -> str:
    """This job's own folder among the checkpoints; the first process finds it out and tells the others."""
    folder = [""]
    if is_first_process():
        key = job.key(processes(job))
        remove_others(root, key)
        folder = [str(root / key)]
    return str(broadcast_object_list(folder)[0])


def _validation_rows(job: TuningJob, tokenizer: PreTrainedTokenizerBase, cache: Path) -> Dataset | None:
    file = job.data_set / "validation.jsonl"
    if file.is_file() and file.stat().st_size == 0:
        if job.params.chooses_by_validation:
            key, off = ("early_stopping", "null") if job.params.early_stopping is not None else ("keep_best", "false")
            raise UserError(f"tuning.{key}: looks at the validation samples, and {file} holds none; set it to {off}.")
        return None
    rows, _ = rendered_rows(file, tokenizer, job.loss, job.params.max_length, cache)
    return rows


def _gathered_weights(trainer: RefinementTrainer) -> dict[str, torch.Tensor] | None:
    """All weights of a model that the processes hold in pieces; every process must ask."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    weights: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return weights
