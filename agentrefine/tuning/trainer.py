"""The trainer: TRL's SFTTrainer on our labels, with our batches, optimizer, validation loss and checkpoints."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from tqdm import tqdm
from transformers import (
    BitsAndBytesConfig,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from agentrefine.errors import UserError
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning import checkpoints
from agentrefine.tuning.chat_template import MASKED
from agentrefine.tuning.data import LengthGroupedBatches, row_lengths
from agentrefine.tuning.distributed import SHARDING
from agentrefine.tuning.hardware import setting_error, use_bf16
from agentrefine.tuning.models import load_base
from agentrefine.tuning.optimizer import labelled_loss, make_optimizer

Model: TypeAlias = PreTrainedModel | PeftModel
"""A model with or without an adapter."""

EVALUATION_TOKENS = 4096
"""Tokens of a batch that is only scored, padding included, unless one row alone is longer."""

PADDED_TO = 64
"""On a CPU, rows are padded to a multiple of this many tokens: each new shape costs time and memory once."""

logger = logging.getLogger(__name__)


class TokenBar(TrainerCallback):  # type: ignore[misc]
    """A progress bar in tokens: how many a second, the time left, the share that is trained, the losses."""

    def __init__(self, total: int, trained_share: float, description: str) -> None:
        self._bar = tqdm(total=total, desc=description, unit="tok", unit_scale=True, mininterval=1.0)
        self._shown = {"trained": f"{trained_share:.0%}"}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
        """Start where an interrupted training resumes, so that the speed is that of now."""
        self._bar.initial = self._bar.n = int(state.num_input_tokens_seen)
        self._bar.last_print_n = self._bar.n
        if state.global_step:
            self._bar.write(f"{self._bar.desc}: resumes at the checkpoint of step {state.global_step}")

    def on_log(self, args: TrainingArguments, state: TrainerState, *_: object, **kwargs: object) -> None:
        """Move the bar."""
        logs = cast("dict[str, float]", kwargs["logs"])
        for key, name in (("loss", "loss"), ("eval_loss", "validation")):
            if key in logs:
                self._shown[name] = f"{logs[key]:.3f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(int(state.num_input_tokens_seen) - self._bar.n)

    def on_train_end(self, *_: object, **__: object) -> None:
        """Close the bar."""
        self._bar.close()


class _EpochOf(TrainerCallback):  # type: ignore[misc]
    """Sets the epoch of the batches, which transformers does not when it resumes with several processes."""

    def __init__(self, batches: LengthGroupedBatches) -> None:
        self._batches = batches

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, *_: object, **__: object) -> None:
        """Set the epoch that begins."""
        self._batches.set_epoch(int(state.epoch))


def load_for_tuning(path: str | Path, params: TuningParams, seed: int) -> Model:
    """A base whose weights are as tuning needs them; for LoRA with a fresh adapter on it.

    Weights that are trained are in fp32, under autocast. Frozen ones are in bf16 on a GPU, to save memory, and QLoRA's
    (Dettmers et al. 2023) in 4 bits (NF4, double quantization), whose adapters TRL keeps in bf16, as that paper does.

    Raises:
        UserError: as `load_base`.
    """
    half = torch.bfloat16 if use_bf16(params) else torch.float32
    frozen_on_gpu = params.method != "full" and torch.cuda.is_available()
    quantization = None
    if params.method == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=half,
        )
    model = load_base(path, half if frozen_on_gpu else torch.float32, params.attention, quantization).model
    model.name_or_path = str(path)
    if params.method == "full":
        return model
    if params.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=params.activation_checkpointing)
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **params.lora.model_dump()))


def training_arguments(
    params: TuningParams, rows: Dataset, seed: int, *, validates: bool, keep_checkpoints: bool, folder: str
) -> SFTConfig:
    """SFTTrainer's arguments. Making them joins the other processes that the environment names (torchrun's way).

    Args:
        params, rows, seed: the section `tuning` of params.yaml, what is trained on, and the seed of its order.
        validates: whether there are validation rows to look at.
        keep_checkpoints: whether to write checkpoints to `folder` while training, to resume after an interruption.
    """
    on_gpu = torch.cuda.is_available()
    unpadded = params.packing or params.padding_free
    chooses = params.chooses_by_validation and validates
    return SFTConfig(
        output_dir=folder,
        num_train_epochs=params.epochs,
        gradient_accumulation_steps=params.gradient_accumulation_steps,
        activation_checkpointing=params.activation_checkpointing,
        max_length=max(params.max_length, *row_lengths(rows)) if params.packing else None,
        packing=params.packing,
        packing_strategy="bfd",
        eval_packing=False,
        padding_free=params.padding_free,
        pad_to_multiple_of=None if on_gpu or unpadded else PADDED_TO,
        train_sampling_strategy="batch_rebalance",
        accelerator_config={"even_batches": False},
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.lr_scheduler_type,
        max_grad_norm=params.max_grad_norm,
        bf16=use_bf16(params),
        use_liger_kernel=params.liger_kernel,
        use_cpu=not on_gpu,
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        # Without an attention mask transformers takes every padding token for padding; it may be the end of a turn too.
        include_num_input_tokens_seen="all" if unpadded else "non_padding",
        report_to="none",
        eval_strategy="steps" if validates else "no",
        eval_steps=params.eval_steps,
        save_strategy="steps" if keep_checkpoints or chooses else "no",
        save_steps=params.eval_steps if chooses else params.checkpoint_steps,
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=chooses,
        metric_for_best_model="loss" if chooses else None,
        greater_is_better=False if chooses else None,
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
    )


class RefinementTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer for labelled rows.

    - The loss is SFTTrainer's: the sum of the cross-entropies by the number of labels of all rows, accumulation steps
      and processes. Its own computation scores every position on a CPU, which is slow where a fifth of the tokens has
      labels: there only the positions that have one are scored. On a GPU its fused output layer does so, here without
      an attention mask and without figures that the GPU must be waited for.
    - The validation loss weighs tokens, not batches (`label_sums`).
    - Steps do not depend on the number of processes (`agentrefine.tuning.data`).
    - A checkpoint gets its manifest once every process has written its part (`agentrefine.tuning.checkpoints`).
    """

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        validation: Dataset | None,
        params: TuningParams,
        arguments: SFTConfig,
        callbacks: Sequence[TrainerCallback] = (),
        passes: float | None = None,
    ) -> None:
        """A trainer that is ready to train `model` in place, alone or as one of several processes.

        Args:
            model, tokenizer: the model has its adapter, if it is to have one.
            rows, validation: `input_ids` and `labels`, to train on and to look at while training; None: no validation.
            params, arguments: the section `tuning` of params.yaml, and what `training_arguments` makes of it.
            callbacks: called after each step.
            passes: over the rows, a part of the last one too; None: `params.epochs`.
        """
        self._tuning = params
        stopping = params.early_stopping if validation is not None else None
        early = [EarlyStoppingCallback(stopping.patience, stopping.min_delta)] if stopping else []
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=validation,
            processing_class=tokenizer,
            callbacks=[*callbacks, *early],
        )
        self.sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if SHARDING & os.environ.keys() and not self.sharded:
            raise setting_error(
                "gpu_missing",
                "launcher",
                "asks to shard the model, which accelerate does on GPUs only, and there is none here; set it to "
                "python, or to torchrun with the number of processes.",
            )
        if params.muon_learning_rate is not None and self.sharded:
            sentence = "Muon needs whole matrices, which FSDP and DeepSpeed cut up; set it to null."
            raise setting_error("bad_value", "muon_learning_rate", sentence)
        self.remove_callback(PrinterCallback)
        self.batches = self._batches()
        self.add_callback(_EpochOf(self.batches))
        steps_per_epoch = math.ceil(len(self.batches) / params.gradient_accumulation_steps)
        steps = max(1, round(steps_per_epoch * (params.epochs if passes is None else passes)))
        if params.tokens is not None:
            self.args.max_steps = steps
        self.args.warmup_steps = min(params.warmup_steps, steps // 4)
        if params.lr_scheduler_type == "warmup_stable_decay":
            decay_steps = min(round(params.decay_share * steps), steps - self.args.warmup_steps)
            self.args.lr_scheduler_kwargs = {"num_decay_steps": decay_steps, "decay_type": "linear"}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:  # noqa: ANN401 (the outputs too, if they are asked for)
        """The loss of a batch, in nats per label; without the figures beside it, each of which SFTTrainer waits for."""
        if return_outputs or num_items_in_batch is None or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if torch.cuda.is_available():
            # Rows are padded on the right, so causal attention needs no mask, and with one torch takes a slower kernel.
            unmasked = {name: value for name, value in inputs.items() if name != "attention_mask"}
            total = -model(**unmasked, use_cache=False, fused_lm_head=True).log_probs.sum()
        else:
            total = labelled_loss(model, inputs["input_ids"], inputs["labels"], "sum", inputs.get("position_ids"))
        return total / num_items_in_batch * self.accelerator.num_processes

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """AdamW, or Muon and AdamW."""
        if self.optimizer is None:
            self.optimizer: Optimizer = make_optimizer(
                self.model if model is None else model,
                learning_rate=self._tuning.learning_rate,
                muon_learning_rate=self._tuning.muon_learning_rate,
                weight_decay=self._tuning.weight_decay,
            )
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step, or end a training that has diverged, before its weights are kept."""
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                message = (
                    f"tuning: the {name} of step {self.state.global_step} is {logs[name]}, the training has diverged; "
                    "lower tuning.learning_rate (and muon_learning_rate), or raise tuning.warmup_steps, and run again."
                )
                raise UserError("training_diverged", message, name=name, step=self.state.global_step, found=logs[name])
        super().log(logs, start_time)

    def evaluation_loop(self, *_: object, metric_key_prefix: str = "eval", **__: object) -> EvalLoopOutput:
        """The masked loss of the validation rows, nats per token."""
        sums = label_sums(self.model_wrapped, self.eval_dataset, self.args.process_index, self.args.world_size)
        whole = self.accelerator.reduce(sums.to(self.args.device))
        loss = float(whole[0] / whole[1])
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, len(self.eval_dataset))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedBatches:
        return self.batches

    def _batches(self) -> LengthGroupedBatches:
        lengths = row_lengths(self.train_dataset)
        shares = self.args.world_size * self.args.gradient_accumulation_steps
        if len(lengths) < shares:
            message = (
                f"tuning: {len(lengths)} {'packed rows' if self._tuning.packing else 'samples'} are too few for "
                f"{self.args.world_size} processes times {self.args.gradient_accumulation_steps} of "
                "tuning.gradient_accumulation_steps; lower one of them (tuning.cpu_processes), or take more data."
            )
            raise UserError("too_few_samples", message, found=len(lengths), expected=shares)
        wanted = round(self._tuning.batch_tokens * len(lengths) / sum(lengths))
        if shares > wanted and self.is_world_process_zero():
            logger.warning(
                "tuning.batch_tokens: %d are about %d rows a step, but a step has %d forward passes of a row at least; "
                "steps are larger than was asked for.", self._tuning.batch_tokens, wanted, shares,
            )  # fmt: skip
        return LengthGroupedBatches(
            lengths,
            min(len(lengths), max(shares, wanted)),
            processes=self.args.world_size,
            accumulation=self.args.gradient_accumulation_steps,
            rank=self.args.process_index,
            seed=self.args.seed,
        )

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            checkpoints.finish(
                Path(self.args.output_dir),
                self.state.global_step,
                kept=self._tuning.checkpoints_kept,
                best=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()


def label_sums(model: nn.Module, rows: Dataset, rank: int = 0, processes: int = 1) -> torch.Tensor:
    """One process's part of two sums over all rows (`input_ids`, `labels`): cross-entropy in nats, and labels.

    Every process runs the model equally often, as sharded models need: where batches run out, on one without labels.
    The model is scored in evaluation mode and left in the mode it was in.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    loss, count = 0.0, 0
    batches = list(_batches_of_similar_length(rows))
    with torch.no_grad():  # FSDP cannot train on what inference mode has touched
        for turn in range(rank, math.ceil(len(batches) / processes) * processes, processes):
            batch = rows[batches[min(turn, len(batches) - 1)]]
            ids = pad_sequence([torch.tensor(x) for x in batch["input_ids"]], batch_first=True)
            labels = pad_sequence([torch.tensor(x) for x in batch["labels"]], batch_first=True, padding_value=MASKED)
            if turn >= len(batches):
                labels.fill_(MASKED)
            loss += float(labelled_loss(model, ids.to(device), labels.to(device), reduction="sum"))
            count += int((labels[:, 1:] != MASKED).sum())
    model.train(was_training)
    return torch.tensor([loss, count], dtype=torch.float64)


def _batches_of_similar_length(rows: Dataset) -> Iterator[Sequence[int]]:
    lengths = row_lengths(rows)
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > EVALUATION_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
