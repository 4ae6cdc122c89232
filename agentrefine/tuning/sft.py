"""The trainer: TRL's SFTTrainer on our labels, with our batches, optimizer, validation loss and sealed checkpoints."""

import json
import logging
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from torch.optim import Optimizer
from transformers import (
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
from agentrefine.tuning.loss import fused_loss, labelled_loss
from agentrefine.tuning.optimizer import make_optimizer
from agentrefine.tuning.scoring import label_sums
from agentrefine.tuning.settings import SHARDING

Model: TypeAlias = PreTrainedModel | PeftModel

logger = logging.getLogger(__name__)


class RefinementTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer for labelled rows.

    - The loss is SFTTrainer's: the sum of the cross-entropies by the number of labels of all rows, accumulation steps
      and processes. Its own computation scores every position on a CPU, which is slow where a fifth of the tokens has
      labels: there only the positions that have one are scored. On a GPU its fused output layer does so, here without
      an attention mask and without figures that the GPU must be waited for.
    - The validation loss weighs tokens, not batches.
    - Steps do not depend on the number of processes (`agentrefine.tuning.batches`).
    - A checkpoint is sealed once every process has written its part (`agentrefine.tuning.checkpoints`).
    """

    def __init__(self, *, tuning: TuningParams, **settings: Any) -> None:  # noqa: ANN401 (the parent's)
        """Take the section `tuning` of params.yaml, and what SFTTrainer takes."""
        self._tuning = tuning
        super().__init__(**settings)
        if SHARDING & os.environ.keys() and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
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
        """The loss of a batch, in nats per label; without the figures beside it, each of which SFTTrainer waits for."""
        if return_outputs or num_items_in_batch is None or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if torch.cuda.is_available():
            total = fused_loss(model, inputs)
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
            while newest and self._stopped_at(newest):  # its last steps are taken again, so that it stops again
                shutil.rmtree(newest)
                newest = checkpoints.newest(Path(self.args.output_dir))
            found = [str(newest) if newest else None]
        return broadcast_object_list(found)[0]  # type: ignore[no-any-return]

    def _stopped_at(self, checkpoint: Path) -> bool:
        """Whether training was over here because the validation loss had not become better for long enough."""
        if self._tuning.early_stopping is None:
            return False
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        kept = state["stateful_callbacks"].get(EarlyStoppingCallback.__name__)
        counted = kept["attributes"]["early_stopping_patience_counter"] if kept else 0
        return bool(counted >= self._tuning.early_stopping.patience)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedBatches:
        return self.batches

    def _batches(self) -> LengthGroupedBatches:
        lengths = row_lengths(self.train_dataset)
        shares = self.args.world_size * self.args.gradient_accumulation_steps
        if len(lengths) < shares:
            raise UserError(
                f"tuning: {len(lengths)} {'packed rows' if self._tuning.packing else 'samples'} are too few for "
                f"{self.args.world_size} processes times {self.args.gradient_accumulation_steps} of "
                "tuning.gradient_accumulation_steps; lower one of them (tuning.cpu_processes), or take more data."
            )
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
            folder = Path(self.args.output_dir)
            checkpoints.seal(folder / f"checkpoint-{self.state.global_step}")
            checkpoints.rotate(folder, self._tuning.checkpoints_kept, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()


class _FiniteLoss(TrainerCallback):  # type: ignore[misc]
    """Ends a training that has diverged, before its weights are kept."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Look at the step's loss and gradient, or at the validation loss."""
        logs = cast("dict[str, float]", kwargs["logs"])
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                raise UserError(
                    f"tuning: the {name} of step {state.global_step} is {logs[name]}, the training has diverged; lower "
                    "tuning.learning_rate (and muon_learning_rate), or raise tuning.warmup_steps, and run again."
                )


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
    arguments: SFTConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> RefinementTrainer:
    """A trainer that is ready to train, alone or as one of several processes.

    Args:
        model: trained in place.
        tokenizer: the model's.
        rows: `input_ids` and `labels`.
        validation: the same, to look at while training; None: no validation loss.
        params: the section `tuning` of params.yaml.
        arguments: made of it.
        callbacks: called after each step.
    """
    stopping = params.early_stopping if validation is not None else None
    trainer = RefinementTrainer(
        tuning=params,
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=tokenizer,
        callbacks=[
            _FiniteLoss(),
            *callbacks,
            *([EarlyStoppingCallback(stopping.patience, stopping.min_delta)] if stopping else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    steps = math.ceil(len(trainer.batches) / params.gradient_accumulation_steps) * params.epochs
    trainer.args.warmup_steps = min(params.warmup_steps, steps // 4)
    if params.lr_scheduler_type == "warmup_stable_decay":
        decay_steps = min(round(params.decay_share * steps), steps - trainer.args.warmup_steps)
        trainer.args.lr_scheduler_kwargs = {"num_decay_steps": decay_steps, "decay_type": "linear"}
    return trainer
