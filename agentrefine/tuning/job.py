"""What is tuned on what: all that the processes of one tuning have in common."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Self

import torch
from datasets import Dataset
from pydantic import BaseModel, model_validator
from transformers import BitsAndBytesConfig
from trl import SFTConfig

from agentrefine.files import sha256_file, short_hash
from agentrefine.params.tuning import Loss, TuningParams
from agentrefine.sources import digest
from agentrefine.tuning.data import row_lengths
from agentrefine.tuning.hardware import use_bf16
from agentrefine.tuning.models import model_digest

SHARDING = frozenset({"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"})
"""Variables by which accelerate's launcher asks for a sharded model."""

PADDED_TO = 64
"""On a CPU, rows are padded to a multiple of this many tokens: each new shape costs time and memory once."""


def training_arguments(
    params: TuningParams, rows: Dataset, seed: int, *, validates: bool, keep_checkpoints: bool, folder: str
) -> SFTConfig:
    """SFTTrainer's arguments. Making them joins the other processes that the environment names (torchrun's way).

    Args:
        params: the section `tuning` of params.yaml.
        rows: what is trained on.
        seed: of the order of the rows.
        validates: whether there are validation rows to look at.
        keep_checkpoints: whether to write checkpoints while training, to go on after an interruption.
        folder: where they go.
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


def weights_dtype(params: TuningParams) -> torch.dtype:
    """Frozen weights of a GPU are kept in bf16 to save memory; trained ones in fp32, under autocast.

    QLoRA's adapters are the exception: TRL keeps them in bf16, as that paper does.
    """
    frozen_on_gpu = params.method != "full" and torch.cuda.is_available()
    return torch.bfloat16 if frozen_on_gpu and use_bf16(params) else torch.float32


def quantization(params: TuningParams) -> BitsAndBytesConfig | None:
    """QLoRA's (Dettmers et al. 2023): frozen weights in 4 bits (NF4, double quantization), computed with in bf16."""
    if params.method != "qlora":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if use_bf16(params) else torch.float32,
    )


HOW_NOT_WHAT = {"variants", "launcher", "checkpoint_steps", "checkpoints_kept"}
"""Parameters that change no weights."""

LIBRARIES = ("accelerate", "peft", "torch", "transformers", "trl")


class TuningJob(BaseModel):
    """One tuning; every process of it holds the same.

    Attributes:
        loss: which turns are trained.
        data_set: a folder with train.jsonl and validation.jsonl.
        base: the base model's folder or hub id.
        params: the section `tuning` of params.yaml.
        seed: of the order of the rows and of adapter weights.
        checkpoints: a folder for checkpoints, shared by all processes; None: an interrupted tuning begins anew.
    """

    loss: Loss
    data_set: Path
    base: str
    params: TuningParams
    seed: int
    checkpoints: Path | None = None

    @model_validator(mode="after")
    def _processes_share_the_best_model(self) -> Self:
        if self.params.chooses_by_validation and self.checkpoints is None and self.params.cpu_processes > 1:
            raise ValueError("several processes need a folder of checkpoints that they share, to choose the best from")
        return self

    def data_digests(self) -> dict[str, str]:
        """SHA-256 of the files of the data set, by name."""
        return {name: sha256_file(self.data_set / name) for name in ("train.jsonl", "validation.jsonl")}

    def key(self, processes: int) -> str:
        """Equal for tunings that take the same steps, so that one can go on where the other stopped."""
        return short_hash(
            self.loss,
            *self.data_digests().values(),
            model_digest(self.base),
            json.dumps(self.params.model_dump(exclude=HOW_NOT_WHAT), sort_keys=True),
            str(use_bf16(self.params)),
            str(self.seed),
            str(processes),
            *sorted(SHARDING & os.environ.keys()),  # the checkpoints of sharded models are other files
            "cuda" if torch.cuda.is_available() else "cpu",
            *(version(library) for library in LIBRARIES),
            digest("agentrefine.tuning.train"),
        )
