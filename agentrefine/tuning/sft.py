"""The trainer: TRL's SFTTrainer on our labels, with our optimizer, schedule, progress bar and loss curve."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from agentrefine.params.tuning import TuningParams
from agentrefine.tuning.loss import labelled_loss
from agentrefine.tuning.optimizer import make_optimizer
from agentrefine.tuning.samples import RenderingCounts

Model: TypeAlias = PreTrainedModel | PeftModel

PADDED_TO = 64
"""On a CPU, rows are padded to a multiple of this many tokens: each new shape costs time and memory once."""


class LabelledLossTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose loss computes logits where a row of the batch has a label, and nowhere else.

    The loss is SFTTrainer's: the sum of the cross-entropies by the number of labels of all rows and processes. Its own
    computation does the same on a GPU, but scores every position on a CPU, which is slow where a fifth of the tokens
    has labels. Takes rows that are padded on the right: causal attention needs no mask for them.
    """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:  # noqa: ANN401 (the outputs too, if they are asked for)
        """The loss of a batch, in nats per label."""
        if return_outputs or num_items_in_batch is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total = labelled_loss(model, inputs["input_ids"], inputs["labels"], reduction="sum")
        return total / num_items_in_batch * self.accelerator.num_processes


def with_adapter(model: PreTrainedModel, base: str | Path, params: TuningParams, seed: int) -> Model:
    """The model itself, or the model with a fresh LoRA adapter."""
    model.name_or_path = str(base)
    if params.method == "full":
        return model
    torch.manual_seed(seed)
    lora = LoraConfig(task_type="CAUSAL_LM", **params.lora.model_dump())
    return get_peft_model(model, lora)


def make_trainer(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    counts: RenderingCounts,
    params: TuningParams,
    seed: int,
    scratch: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> SFTTrainer:
    """A trainer that is ready to train, alone or as one of the processes that the environment names (torchrun's way).

    Args:
        model: trained in place.
        tokenizer: the model's.
        rows: `input_ids` and `labels`.
        counts: of the rows.
        params: the section `tuning` of params.yaml.
        seed: of the order of the rows.
        scratch: an empty folder for the trainer's own files; nothing in it is needed afterwards.
        callbacks: called after each step.
    """
    on_gpu = torch.cuda.is_available()
    trainer_class = SFTTrainer if on_gpu or params.packing else LabelledLossTrainer
    trainer = trainer_class(
        model=model,
        args=SFTConfig(
            output_dir=str(scratch),
            num_train_epochs=params.epochs,
            per_device_train_batch_size=_rows_per_batch(params, counts),
            gradient_accumulation_steps=params.gradient_accumulation_steps,
            activation_checkpointing=params.activation_checkpointing,
            max_length=max(params.max_length, counts.longest) if params.packing else None,
            packing=params.packing,
            packing_strategy="bfd",
            pad_to_multiple_of=None if on_gpu or params.packing else PADDED_TO,
            train_sampling_strategy="random" if params.packing else "group_by_length",
            learning_rate=params.learning_rate,
            lr_scheduler_type=params.lr_scheduler_type,
            max_grad_norm=params.max_grad_norm,
            bf16=use_bf16(params),
            use_cpu=not on_gpu,
            seed=seed,
            data_seed=seed,
            logging_steps=1,
            include_num_input_tokens_seen="non_padding",
            report_to="none",
            save_strategy="no",
            eval_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=on_gpu,
            ddp_find_unused_parameters=False,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        optimizers=(
            make_optimizer(model, learning_rate=params.learning_rate, muon_learning_rate=params.muon_learning_rate),
            None,
        ),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    steps = math.ceil(len(trainer.get_train_dataloader()) / params.gradient_accumulation_steps) * params.epochs
    trainer.args.warmup_steps = min(params.warmup_steps, steps // 4)
    if params.lr_scheduler_type == "warmup_stable_decay":
        decay_steps = min(round(params.decay_share * steps), steps - trainer.args.warmup_steps)
        trainer.args.lr_scheduler_kwargs = {"num_decay_steps": decay_steps, "decay_type": "linear"}
    return trainer


def use_bf16(params: TuningParams) -> bool:
    """Whether the forward pass computes in bf16."""
    if params.precision != "auto":
        return params.precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def weights_dtype(params: TuningParams) -> torch.dtype:
    """Frozen weights of a GPU are kept in bf16 to save memory; trained ones in fp32, under autocast."""
    frozen_on_gpu = params.method == "lora" and torch.cuda.is_available()
    return torch.bfloat16 if frozen_on_gpu and use_bf16(params) else torch.float32


def _rows_per_batch(params: TuningParams, counts: RenderingCounts) -> int:
    """Rows of one process's forward pass: `batch_tokens` over processes and accumulation steps, by mean row length."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    row_tokens = params.max_length if params.packing else counts.tokens / counts.samples
    return max(1, round(params.batch_tokens / params.gradient_accumulation_steps / processes / row_tokens))
