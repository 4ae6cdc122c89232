"""The ways to tune that `perf/tuning.py` compares, each run in a process of its own.

All train the same model on the same samples by AdamW with the same settings, one epoch, about as many tokens in every
step; they differ in what makes a batch and in how the loss is computed:

- the stage (`agentrefine.tuning.train.train`): alone, with a process for each core, packed;
- transformers' Trainer on our labels, padded to the longest row of the batch, in random order;
- TRL's SFTTrainer on the conversations with `assistant_only_loss`, as its users run it: it trains the mistakes and the
  acknowledgement too;
- TRL's SFTTrainer on our labels: in random order, with rows of similar length together, packed.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
import torch
from datasets import Dataset
from pydantic import BaseModel
from torch import nn
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer
from trl.data_utils import pack_dataset

from agentrefine.files import read_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning.chat_template import MASKED
from agentrefine.tuning.data import rendered_rows, row_lengths
from agentrefine.tuning.hardware import usable_cores, use_bf16
from agentrefine.tuning.models import load_tokenizer, on_device
from agentrefine.tuning.optimizer import BETAS
from agentrefine.tuning.train import TuningJob, train, tune
from agentrefine.tuning.trainer import load_for_tuning

TRAIN_ON: Final = "correct_turns"

TRAINING_TEMPLATE = """
{%- for message in messages %}{{- '<|' ~ message.role ~ '|>' }}
{%- if message.role == 'assistant' %}{% generation %}{{- message.content ~ eos_token }}{% endgeneration %}
{%- else %}{{- ' ' ~ message.content ~ eos_token }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""
"""agentrefine/tuning/chat_template.jinja with the markers by which TRL finds the assistant's tokens."""


class Work(BaseModel):
    """What every way trains: a model's folder, a data set's folder, the section `tuning` of params.yaml, the seed."""

    base: Path
    data_set: Path
    params: TuningParams
    seed: int


class Figures(BaseModel):
    """Of one run; the first step, in which much is set up once, is left out of all but the last three.

    Attributes:
        seconds: of the training loop.
        processor_seconds: of all threads and processes in that time, which depends less on what else the machine does.
        tokens: read, padding left out.
        steps: optimizer steps, the first included.
        trained_tokens_share: tokens with a label by all tokens of the data.
        padding: positions that hold no token, by all positions that the (first) process computed.
        gpu_bytes: most that were allocated on the GPU; 0 without one.
    """

    seconds: float
    processor_seconds: float
    tokens: int
    steps: int
    trained_tokens_share: float
    padding: float
    gpu_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """By the clock."""
        return self.tokens / self.seconds

    @property
    def tokens_per_processor_second(self) -> float:
        """By the time that processors worked on it."""
        return self.tokens / self.processor_seconds


class Mark(NamedTuple):
    """The end of a step: by the clock, by the processors, and the tokens read so far."""

    seconds: float
    processor_seconds: float
    tokens: int


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes the time and the tokens read after every step, and what the model was given."""

    def __init__(self, pad: int) -> None:
        self._pad = pad
        self._marks: list[Mark] = []
        self._positions = 0
        self._tokens: list[torch.Tensor] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **_: object
    ) -> None:
        """See every batch on its way into the model."""
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Note the time once the GPU is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._marks.append(Mark(time.perf_counter(), processor_seconds(), int(state.num_input_tokens_seen)))

    def figures(self, trained_tokens_share: float) -> Figures:
        """Of the training that has ended."""
        first, last = self._marks[0], self._marks[-1]
        return Figures(
            seconds=last.seconds - first.seconds,
            processor_seconds=last.processor_seconds - first.processor_seconds,
            tokens=last.tokens - first.tokens,
            steps=len(self._marks),
            trained_tokens_share=trained_tokens_share,
            padding=1 - int(torch.stack(self._tokens).sum()) / self._positions,
            gpu_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        )

    def _see(self, _: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        ids: torch.Tensor = inputs["input_ids"]
        self._positions += ids.numel()
        self._tokens.append((ids != self._pad).sum())


def processor_seconds() -> float:
    """Used so far by this process and by those that it has started and that still run."""
    times = [member.cpu_times() for member in psutil.Process().children(recursive=True)]
    return time.process_time() + float(sum(used.user + used.system for used in times))


def stage(work: Work, *, processes: int = 1, packing: bool = False) -> Figures:
    """Our stage, the parent of its own further processes; alone it saves no weights, which can be gigabytes."""
    params = work.params.model_copy(
        update={"cpu_processes": processes, "cpu_threads": max(1, usable_cores() // processes), "packing": packing}
    )
    job = TuningJob(train_on=TRAIN_ON, data_set=work.data_set, base=str(work.base), params=params, seed=work.seed)
    pad = load_tokenizer(work.base).pad_token_id
    clock = Clock(pad)
    with tempfile.TemporaryDirectory() as folder:
        if processes == 1:
            rendering = train(job, [clock]).result.rendering
        else:
            rendering = tune(job, Path(folder) / "tuned", [clock]).rendering
    return clock.figures(rendering.trained_token_share)


def padded_trainer(work: Work) -> Figures:
    """transformers' Trainer and its own loss."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = _loaded(work)
        rows = _labelled_rows(work, tokenizer, folder)
        return _trained(
            lambda clock: Trainer(
                model=model,
                args=TrainingArguments(**_settings(work, rows, folder)),
                train_dataset=rows,
                data_collator=DataCollatorForSeq2Seq(tokenizer),
                processing_class=tokenizer,
                callbacks=[clock],
            ),
            tokenizer,
        )


def trl(work: Work, *, messages: bool = False, packing: bool = False, order: str = "random") -> Figures:
    """TRL's SFTTrainer on our labels, or on the messages with `assistant_only_loss`."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = _loaded(work)
        labelled = _labelled_rows(work, tokenizer, folder)
        longest = max(work.params.max_length, *row_lengths(labelled))
        rows = pack_dataset(labelled, longest, "bfd") if packing else labelled
        if messages:
            tokenizer.chat_template = TRAINING_TEMPLATE
        config = SFTConfig(
            **_settings(work, rows, folder),
            max_length=longest,
            packing=packing,
            packing_strategy="bfd",
            assistant_only_loss=messages,
            train_sampling_strategy=order,
        )
        return _trained(
            lambda clock: SFTTrainer(
                model=model,
                args=config,
                train_dataset=_chats(work) if messages else labelled,
                processing_class=tokenizer,
                callbacks=[clock],
            ),
            tokenizer,
        )


PER_CORE = "stage, a process per core"

PADDED = "Trainer, padded"

TRL_ON_LABELS = "TRL, our labels"

WAYS: dict[str, Callable[[Work], Figures]] = {
    "stage": stage,
    PER_CORE: lambda work: stage(work, processes=os.cpu_count() or 1),
    "stage, packed": lambda work: stage(work, packing=True),
    PADDED: padded_trainer,
    "TRL, assistant_only_loss": lambda work: trl(work, messages=True),
    TRL_ON_LABELS: trl,
    "TRL, our labels, by length": lambda work: trl(work, order="group_by_length"),
    "TRL, our labels, packed": lambda work: trl(work, packing=True),
}
"""By the names in the table."""


def _loaded(work: Work) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    model = load_for_tuning(work.base, work.params, work.seed)
    return on_device(model), load_tokenizer(work.base)


def _labelled_rows(work: Work, tokenizer: PreTrainedTokenizerBase, folder: str) -> Dataset:
    rows, _ = rendered_rows(
        work.data_set / "train.jsonl", tokenizer, TRAIN_ON, work.params.max_length, Path(folder) / "rows"
    )
    return rows


def _chats(work: Work) -> Dataset:
    return Dataset.from_list(
        [
            {"messages": [{"role": m.role, "content": m.content} for m in sample.messages()]}
            for sample in read_jsonl(work.data_set / "train.jsonl", Sample)
        ]
    )


def _settings(work: Work, rows: Dataset, folder: str) -> dict[str, Any]:
    """What the stage sets as well, in transformers' names; logging is left at its default, which is less often."""
    params = work.params
    lengths = row_lengths(rows)
    step_rows = round(params.batch_tokens * len(lengths) / sum(lengths))
    return {
        "output_dir": folder,
        "num_train_epochs": params.epochs,
        "per_device_train_batch_size": max(1, step_rows // params.gradient_accumulation_steps),
        "gradient_accumulation_steps": params.gradient_accumulation_steps,
        "activation_checkpointing": params.activation_checkpointing,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": params.warmup_steps,
        "weight_decay": params.weight_decay,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "max_grad_norm": params.max_grad_norm,
        "bf16": use_bf16(params),
        "use_cpu": not torch.cuda.is_available(),
        "seed": work.seed,
        "save_strategy": "no",
        "report_to": "none",
        "include_num_input_tokens_seen": "non_padding",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
    }


def _trained(make: Callable[[Clock], Trainer], tokenizer: PreTrainedTokenizerBase) -> Figures:
    clock = Clock(tokenizer.pad_token_id)
    trainer = make(clock)
    trainer.train()
    labels = [label for row in trainer.train_dataset["labels"] for label in row]
    return clock.figures(sum(label != MASKED for label in labels) / len(labels))


def run_way(way: str, work: Work, out: Path) -> None:
    """Be the process of one way: train, and write the figures to `out`."""
    out.write_text(WAYS[way](work).model_dump_json(), encoding="utf-8")
