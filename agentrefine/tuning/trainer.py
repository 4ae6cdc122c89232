"""The trainer: TRL's SFTTrainer on our labels, with our batches, optimizer, validation loss and sealed checkpoints."""

import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import torch
import xxhash
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from pydantic import BaseModel, ValidationError
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from tqdm import tqdm
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
from transformers.trainer_utils import EvalLoopOutput, rotate_checkpoints
from trl import SFTConfig, SFTTrainer

from agentrefine.errors import UserError
from agentrefine.files import write_json
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning import trainer as checkpoints
from agentrefine.tuning.data import LengthGroupedBatches, row_lengths
from agentrefine.tuning.job import SHARDING
from agentrefine.tuning.loss import fused_loss, labelled_loss
from agentrefine.tuning.optimizer import make_optimizer
from agentrefine.tuning.rendering import MASKED
from agentrefine.tuning.results import LossPoint, ValidationPoint

SEAL = "seal.json"

logger = logging.getLogger(__name__)


class SealedFile(BaseModel):
    """A file of a checkpoint: its bytes and their XXH3 digest of 128 bits."""

    size: int
    xxh3: str


class Seal(BaseModel):
    """The files of a checkpoint by their names."""

    files: dict[str, SealedFile]


def seal(checkpoint: Path) -> None:
    """Write a checkpoint's seal; all its files must have been written.

    Raises:
        UserError: the disk is full.
    """
    files = {
        str(file.relative_to(checkpoint)): SealedFile(size=file.stat().st_size, xxh3=_digest(file))
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != SEAL
    }
    write_json(checkpoint / SEAL, Seal(files=files).model_dump())


def flaw(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where it is as it was sealed."""
    try:
        sealed = Seal.model_validate(json.loads((checkpoint / SEAL).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return "it was not finished"
    except (ValidationError, ValueError):
        return f"its {SEAL} is damaged"
    for name, expected in sealed.files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected.size:
            return f"{name} has {file.stat().st_size} bytes instead of {expected.size}"
        if _digest(file) != expected.xxh3:
            return f"{name} has changed"
    return None


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint of a folder; those after it that are not whole are removed, with a warning."""
    for checkpoint in sorted(folder.glob("checkpoint-[0-9]*"), key=_step, reverse=True):
        found = flaw(checkpoint)
        if found is None:
            return checkpoint
        logger.warning("%s cannot be used (%s) and is removed; tuning goes on from an earlier one.", checkpoint, found)
        shutil.rmtree(checkpoint)
    return None


def rotate(folder: Path, kept: int, best: str | None) -> None:
    """Remove the oldest checkpoints of a folder but the last `kept` ones and the best."""
    rotate_checkpoints(str(folder), save_total_limit=kept, best_model_checkpoint=best)


def remove_others(folder: Path, key: str) -> None:
    """Remove the checkpoints of tunings with other settings, but the last: a changed setting may be changed back."""
    others = {found.parent for found in folder.glob("*/checkpoint-*") if found.parent.name != key}
    for other in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        logger.warning("%s holds checkpoints of earlier settings or data and is removed.", other)
        shutil.rmtree(other)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _digest(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def validation_curve_of(state: TrainerState) -> list[ValidationPoint]:
    """The looks at the validation samples, those before an interruption included."""
    return [
        ValidationPoint(step=entry["step"], tokens=int(entry["num_input_tokens_seen"]), loss=entry["eval_loss"])
        for entry in state.log_history
        if "eval_loss" in entry
    ]


def curve_of(state: TrainerState) -> list[LossPoint]:
    """The training loss of every step, those before an interruption included."""
    return [
        LossPoint(
            step=entry["step"],
            tokens=int(entry["num_input_tokens_seen"]),
            loss=entry["loss"],
            learning_rate=entry["learning_rate"],
        )
        for entry in state.log_history
        if "loss" in entry
    ]


def last_tenth(curve: list[LossPoint]) -> float:
    """Mean loss over the last tenth of the steps."""
    tail = curve[-max(1, len(curve) // 10) :]
    return sum(point.loss for point in tail) / len(tail)


def thinned(curve: list[LossPoint], most: int) -> list[LossPoint]:
    """At most `most` points: each the mean loss of its stretch, at the stretch's end."""
    size = -(-len(curve) // most)
    stretches = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [s[-1].model_copy(update={"loss": sum(p.loss for p in s) / len(s)}) for s in stretches]


class TokenBar(TrainerCallback):  # type: ignore[misc]
    """A progress bar in tokens: how many a second, when it will be over, the share that is trained, the losses."""

    def __init__(self, total: int, trained_share: float, description: str) -> None:
        self._bar = tqdm(total=total, desc=description, unit="tok", unit_scale=True, mininterval=1.0)
        self._shown = {"trained": f"{trained_share:.0%}"}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start where an interrupted training goes on, so that the speed is that of now."""
        self._bar.initial = self._bar.n = int(state.num_input_tokens_seen)
        self._bar.last_print_n = self._bar.n
        if state.global_step:
            self._bar.write(f"{self._bar.desc}: goes on at the checkpoint of step {state.global_step}")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Move the bar."""
        logs = cast("dict[str, float]", kwargs["logs"])
        for key, name in (("loss", "loss"), ("eval_loss", "validation")):
            if key in logs:
                self._shown[name] = f"{float(logs[key]):.3f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(int(state.num_input_tokens_seen) - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the bar."""
        self._bar.close()


EVALUATION_TOKENS = 4096
"""Of a batch that is only scored, padding included, unless one row alone is longer."""


class LabelSums(NamedTuple):
    """Cross-entropy summed over the tokens that have a label, in nats, and how many these are."""

    loss: float
    labels: int


def masked_loss(model: nn.Module, rows: Dataset) -> float:
    """Mean cross-entropy over the tokens of all rows that have a label, nats per token."""
    sums = label_sums(model, rows)
    return sums.loss / sums.labels


def label_sums(model: nn.Module, rows: Dataset, rank: int = 0, processes: int = 1) -> LabelSums:
    """One process's part of the sums over all rows.

    Every process runs the model equally often, as sharded models need: where batches run out, on one without labels.

    Args:
        model: a causal LM; scored in evaluation mode and left in the mode it was in.
        rows: `input_ids` and `labels`.
        rank: of this process.
        processes: that share the rows.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    loss, count = 0.0, 0
    batches = list(_batches_of_similar_length(rows))
    with torch.no_grad():  # FSDP cannot train on what inference mode has touched
        for begin in range(0, len(batches), processes):
            turn = begin + rank
            batch = rows[batches[min(turn, len(batches) - 1)]]
            ids = pad_sequence([torch.tensor(x) for x in batch["input_ids"]], batch_first=True)
            labels = pad_sequence([torch.tensor(x) for x in batch["labels"]], batch_first=True, padding_value=MASKED)
            if turn >= len(batches):
                labels.fill_(MASKED)
            loss += float(labelled_loss(model, ids.to(device), labels.to(device), reduction="sum"))
            count += int((labels[:, 1:] != MASKED).sum())
    model.train(was_training)
    return LabelSums(loss, count)


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


Model: TypeAlias = PreTrainedModel | PeftModel


class RefinementTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer for labelled rows.

    - The loss is SFTTrainer's: the sum of the cross-entropies by the number of labels of all rows, accumulation steps
      and processes. Its own computation scores every position on a CPU, which is slow where a fifth of the tokens has
      labels: there only the positions that have one are scored. On a GPU its fused output layer does so, here without
      an attention mask and without figures that the GPU must be waited for.
    - The validation loss weighs tokens, not batches.
    - Steps do not depend on the number of processes (`agentrefine.tuning.data`).
    - A checkpoint is sealed once every process has written its part (`agentrefine.tuning.trainer`).
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
