"""The trainer: TRL's SFTTrainer on our labels, with our batches, optimizer, validation loss and sealed checkpoints."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from torch.optim import Optimizer
from transformers import (
    BitsAndBytesConfig,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer

from agentrefine.errors import UserError
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning import checkpoints
from agentrefine.tuning.batches import LengthGroupedBatches, row_lengths
from agentrefine.tuning.loss import labelled_loss
from agentrefine.tuning.optimizer import make_optimizer
from agentrefine.tuning.scoring import label_sums

Model: TypeAlias = PreTrainedModel | PeftModel

PADDED_TO = 64
"""On a CPU, rows are padded to a multiple of this many tokens: each new shape costs time and memory once."""


class RefinementTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer for labelled rows.

    - The loss is SFTTrainer's: the sum of the cross-entropies by the number of labels of all rows, accumulation steps
      and processes. Its own computation builds no full logits on a GPU, but scores every position on a CPU, which is
      slow where a fifth of the tokens has labels: there only the positions that have one are scored.
    - The validation loss weighs tokens, not batches.
    - Steps do not depend on the number of processes (`agentrefine.tuning.batches`).
    - A checkpoint is sealed once every process has written its part (`agentrefine.tuning.checkpoints`).
    """

    def __init__(self, *, tuning: TuningParams, **settings: Any) -> None:  # noqa: ANN401 (the parent's)
        """Take the section `tuning` of params.yaml, and what SFTTrainer takes."""
        self._tuning = tuning
        super().__init__(**settings)
        asked_to_shard = {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & set(os.environ)
        if asked_to_shard and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError(
                "tuning.launcher: asks to shard the model, which accelerate does on GPUs only, and there is none here; "
                "set it to python, or to torchrun with the number of processes."
            )
        if tuning.muon_learning_rate is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError(
                "tuning.muon_learning_rate: Muon needs whole matrices, which FSDP and DeepSpeed cut up; set it to null."
            )
        self.batches = self._batches()
        self.add_callback(_EpochOf(self.batches))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:  # noqa: ANN401 (the outputs too, if they are asked for)
        """The loss of a batch, in nats per label."""
        if torch.cuda.is_available() or return_outputs or num_items_in_batch is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
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

    def evaluation_loop(self, *_: object, metric_key_prefix: str = "eval", **__: object) -> EvalLoopOutput:
        """The masked loss of the validation rows, nats per token."""
        sums = label_sums(self.model_wrapped, self.eval_dataset, self.args.process_index, self.args.world_size)
        whole = self.accelerator.reduce(
            torch.tensor([sums.loss, sums.labels], dtype=torch.float64, device=self.args.device)
        )
        loss = float(whole[0] / whole[1])
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": loss}, len(self.eval_dataset))

    def newest_checkpoint(self) -> str | None:
        """The checkpoint to go on at, the same for every process; None where there is none."""
        found: list[str | None] = [None]
        if self.is_world_process_zero():
            newest = checkpoints.newest(Path(self.args.output_dir))
            found = [str(newest) if newest else None]
        return broadcast_object_list(found)[0]  # type: ignore[no-any-return]

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedBatches:
        return self.batches

    def _batches(self) -> LengthGroupedBatches:
        lengths = row_lengths(self.train_dataset)
        shares = self.args.world_size * self.args.gradient_accumulation_steps
        if len(lengths) < shares:
            raise UserError(
                f"tuning: {len(lengths)} rows are too few for {self.args.world_size} processes with "
                f"tuning.gradient_accumulation_steps: {self.args.gradient_accumulation_steps}; lower one of them."
            )
        wanted = round(self._tuning.batch_tokens * len(lengths) / sum(lengths))
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
            folder = Path(self.args.output_dir)
            checkpoints.seal(folder / f"checkpoint-{self.state.global_step}")
            checkpoints.rotate(folder, self._tuning.checkpoints_kept, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()


class _EpochOf(TrainerCallback):  # type: ignore[misc]
    """Tells the batches which epoch begins; transformers does not where it resumes with several processes."""

    def __init__(self, batches: LengthGroupedBatches) -> None:
        self._batches = batches

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Set the epoch."""
        self._batches.set_epoch(int(state.epoch))


def with_adapter(model: PreTrainedModel, base: str | Path, params: TuningParams, seed: int) -> Model:
    """The model itself, or the model with a fresh LoRA adapter."""
    model.name_or_path = str(base)
    if params.method == "full":
        return model
    if params.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=params.activation_checkpointing)
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **params.lora.model_dump()))


def make_trainer(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    validation: Dataset | None,
    params: TuningParams,
    seed: int,
    folder: Path,
    *,
    keep_checkpoints: bool,
    callbacks: Sequence[TrainerCallback] = (),
) -> RefinementTrainer:
    """A trainer that is ready to train, alone or as one of the processes that the environment names (torchrun's way).

    Args:
        model: trained in place.
        tokenizer: the model's.
        rows: `input_ids` and `labels`.
        validation: the same, to look at while training; None: no validation loss.
        params: the section `tuning` of params.yaml.
        seed: of the order of the rows.
        folder: for checkpoints, shared by all processes.
        keep_checkpoints: whether to write some while training, to go on after an interruption.
        callbacks: called after each step.
    """
    on_gpu = torch.cuda.is_available()
    stopping = params.early_stopping if validation is not None else None
    trainer = RefinementTrainer(
        tuning=params,
        model=model,
        args=SFTConfig(
            output_dir=str(folder),
            num_train_epochs=params.epochs,
            gradient_accumulation_steps=params.gradient_accumulation_steps,
            activation_checkpointing=params.activation_checkpointing,
            max_length=max(params.max_length, max(row_lengths(rows))) if params.packing else None,
            packing=params.packing,
            packing_strategy="bfd",
            eval_packing=False,
            padding_free=params.padding_free,
            pad_to_multiple_of=None if on_gpu or params.packing or params.padding_free else PADDED_TO,
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
            include_num_input_tokens_seen="non_padding",
            report_to="none",
            eval_strategy="no" if validation is None else "steps",
            eval_steps=params.eval_steps,
            eval_on_start=validation is not None,
            save_strategy="steps" if keep_checkpoints or stopping else "no",
            save_steps=params.eval_steps if stopping else params.checkpoint_steps,
            load_best_model_at_end=stopping is not None,
            metric_for_best_model="loss" if stopping else None,
            greater_is_better=False if stopping else None,
            disable_tqdm=True,
            dataloader_pin_memory=on_gpu,
            ddp_find_unused_parameters=False,
        ),
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=tokenizer,
        callbacks=[*callbacks, *([EarlyStoppingCallback(stopping.patience, stopping.min_delta)] if stopping else [])],
    )
    trainer.remove_callback(PrinterCallback)
    steps = math.ceil(len(trainer.batches) / params.gradient_accumulation_steps) * params.epochs
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


def weights_dtype(params: TuningParams) -> torch.dtype:
    """Frozen weights of a GPU are kept in bf16 to save memory; trained ones in fp32, under autocast."""
    frozen_on_gpu = params.method != "full" and torch.cuda.is_available()
    return torch.bfloat16 if frozen_on_gpu and use_bf16(params) else torch.float32
