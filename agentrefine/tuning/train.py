"""Refinement tuning (paper, section 3.3): cross-entropy on the tokens of correct turns only, by TRL's SFTTrainer.

Every process of a tuning runs `train`: load, render, train, score, gather the weights. The first one runs it inside
`tune`, which starts the others on a CPU and writes the model.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, Self

import datasets
import torch
from datasets import Dataset
from pydantic import BaseModel, model_validator
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_pt_utils import get_model_param_count

from agentrefine.files import atomic_folder, sha256_file, short_hash, write_json
from agentrefine.params.tuning import MaskPolicy, TuningParams
from agentrefine.sources import digest
from agentrefine.tuning import checkpoints
from agentrefine.tuning.cards import CARD, RenderingCounts, TunedCard, quantisation_of, read_card
from agentrefine.tuning.data import rendered_rows
from agentrefine.tuning.distributed import SHARDING, process_count, replicas, serve_as_replica
from agentrefine.tuning.hardware import check_hardware, machine_failures, setting_error, threads_for, use_bf16
from agentrefine.tuning.models import load_tokenizer, model_digest
from agentrefine.tuning.results import LossPoint, TuningResult, ValidationPoint, last_tenth, points, thinned
from agentrefine.tuning.trainer import Model, RefinementTrainer, TokenBar, load_for_tuning, training_arguments

PARAMS_WITHOUT_EFFECT = {"variants", "launcher", "checkpoint_steps", "checkpoints_kept"}
"""Parameters of the section `tuning` that do not change a model's weights."""

LIBRARIES = ("accelerate", "peft", "torch", "transformers", "trl")
"""Packages whose versions may change the bytes of a checkpoint."""

MAX_CURVE_POINTS = 100
"""The most points of a loss curve that a result keeps."""


class TuningJob(BaseModel):
    """What is tuned on what; every process of a tuning has the same.

    Attributes:
        train_on: which turns are trained (the mask policy).
        data_set: a folder with train.jsonl and validation.jsonl.
        base: the base model's folder or hub id.
        params: the section `tuning` of params.yaml.
        seed: of the order of the rows and of adapter weights.
        checkpoints: a folder for checkpoints, shared by all processes; None: nothing to resume at.
    """

    train_on: MaskPolicy
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
        """Equal for tunings that take the same steps, so that one can resume where the other stopped."""
        return short_hash(
            self.train_on,
            *self.data_digests().values(),
            model_digest(self.base),
            json.dumps(self.params.model_dump(exclude=PARAMS_WITHOUT_EFFECT), sort_keys=True),
            str(use_bf16(self.params)),
            str(self.seed),
            str(processes),
            *sorted(SHARDING & os.environ.keys()),  # the checkpoints of sharded models are other files
            "cuda" if torch.cuda.is_available() else "cpu",
            *(version(library) for library in LIBRARIES),
            digest("agentrefine.tuning.train"),
        )


class Trained(NamedTuple):
    """What the processes trained together.

    Attributes:
        model, tokenizer: with the tuned weights; a sharded model holds only a part of them.
        weights: all of them, on the first process; None where `model` holds them.
        curve: the training loss of every step.
        result: the figures.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    weights: dict[str, torch.Tensor] | None
    curve: list[LossPoint]
    result: TuningResult


@machine_failures()
def tune(job: TuningJob, out: Path, callbacks: Sequence[TrainerCallback] = ()) -> TuningResult:
    """Tune a model and write it, or its adapter, to the folder `out`.

    Runs in the first process of a tuning; the others are started here on a CPU, and elsewhere run `train`. Equal jobs
    give equal bytes on equal hardware, also where one was interrupted and resumes at a checkpoint.

    Args:
        job: what is tuned on what.
        out: replaced as a whole once everything is written.
        callbacks: further callbacks of the trainer, such as one that logs to a tracking server.

    Raises:
        UserError: a bad data set, base, chat template or parameter; a full disk, a full memory.
    """
    params = job.params
    processes = process_count(params.cpu_processes)
    with atomic_folder(out) as folder, replicas(__name__, processes, params.cpu_threads) as others:
        others.begin(job.model_dump_json())
        try:
            trained = train(job, callbacks, bar=out.name, ready=others.wait)
        except RuntimeError as error:
            raise others.explain(error) from error
        _save(job, trained, folder)
    if job.checkpoints is not None:
        shutil.rmtree(job.checkpoints, ignore_errors=True)
    return trained.result


@machine_failures()
def train(
    job: TuningJob,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    bar: str | None = None,
    ready: Callable[[], None] = lambda: None,
) -> Trained:
    """Tune a model as one of the processes that the environment names (torchrun's way), or alone.

    Args:
        job: the same for every process.
        callbacks: of the trainer.
        bar: what a progress bar is named; None: no bar.
        ready: called when the rows are rendered, before the model is loaded; returns when the others are as far.

    Raises:
        UserError: as `tune`.
    """
    datasets.disable_progress_bars()
    params = job.params
    check_hardware(params)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with tempfile.TemporaryDirectory(prefix="agentrefine-tuning-") as scratch, threads_for(params):
        tokenizer = load_tokenizer(job.base)
        file, cache = job.data_set / "train.jsonl", Path(scratch, "train")
        rows, counts = rendered_rows(file, tokenizer, job.train_on, params.max_length, cache)
        validation = _validation_rows(job, tokenizer, Path(scratch, "validation"))
        ready()
        arguments = training_arguments(
            params, rows, job.seed,
            validates=validation is not None, keep_checkpoints=job.checkpoints is not None,
            folder=f"{scratch}/checkpoints",
        )  # fmt: skip
        if job.checkpoints is not None:
            key = partial(job.key, process_count(params.cpu_processes))
            arguments.output_dir = checkpoints.own_folder(job.checkpoints, key)
        # After the arguments: with FSDP and DeepSpeed one process reads the weights, and the others get their part.
        model = load_for_tuning(job.base, params, job.seed)
        passes = params.epochs if params.tokens is None else params.tokens / counts.tokens
        if bar is not None:
            callbacks = [TokenBar(round(counts.tokens * passes), counts.trained_token_share, bar), *callbacks]
        trainer = RefinementTrainer(
            model, tokenizer, rows, validation, _stepped(params, counts), arguments, callbacks, passes
        )
        patience = params.early_stopping.patience if params.early_stopping else None
        max_steps = trainer.args.max_steps if trainer.args.max_steps > 0 else None
        folder = Path(trainer.args.output_dir)
        checkpoint = checkpoints.resume_at(folder, patience, max_steps) if job.checkpoints else None
        trainer.args.eval_on_start = validation is not None and checkpoint is None
        began = time.monotonic()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.monotonic() - began
        weights: dict[str, torch.Tensor] | None = None
        if trainer.sharded:  # every process must ask for them
            weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        resumed_at = checkpoints.step_of(checkpoint) if checkpoint else 0
        curve = points(trainer.state.log_history, LossPoint, "loss")
        validation_curve = points(trainer.state.log_history, ValidationPoint, "eval_loss")
        tokens = curve[-1].tokens
        before = next((point.tokens for point in curve if point.step == resumed_at), 0)
        result = TuningResult(
            train_on=job.train_on,
            parameters=get_model_param_count(trainer.model),
            trainable_parameters=get_model_param_count(trainer.model, trainable_only=True),
            rendering=counts,
            steps=trainer.state.global_step,
            resumed_at=resumed_at,
            tokens=tokens,
            trained_tokens=round(tokens * counts.trained_token_share),
            seconds=seconds,
            tokens_per_second=(tokens - before) / seconds,
            train_loss=last_tenth(curve),
            validation_loss_before=validation_curve[0].loss if validation_curve else None,
            validation_loss=trainer.evaluate()["eval_loss"] if validation is not None else None,
            curve=thinned(curve, MAX_CURVE_POINTS),
            validation_curve=validation_curve,
        )
        return Trained(model, tokenizer, weights, curve, result)


def _stepped(params: TuningParams, counts: RenderingCounts) -> TuningParams:
    """The parameters with the tokens of a step that make variants comparable.

    With epochs, as many games share a step, whether their mistakes are cut out or not, so that variants on the same
    games take the same number of steps. With a number of tokens, steps hold as many tokens whatever the data set.
    """
    if params.tokens is not None:
        return params
    return params.model_copy(update={"batch_tokens": round(params.batch_tokens * counts.tokens / counts.whole_tokens)})


def _validation_rows(job: TuningJob, tokenizer: PreTrainedTokenizerBase, cache: Path) -> Dataset | None:
    file = job.data_set / "validation.jsonl"
    if file.is_file() and file.stat().st_size == 0:
        if job.params.chooses_by_validation:
            key, off = ("early_stopping", "null") if job.params.early_stopping is not None else ("keep_best", "false")
            sentence = f"looks at the validation samples, and {file} holds none; set it to {off}."
            raise setting_error("no_samples", key, sentence, file=file)
        return None
    rows, _ = rendered_rows(file, tokenizer, job.train_on, job.params.max_length, cache)
    return rows


def _save(job: TuningJob, trained: Trained, folder: Path) -> None:
    """Write weights, tokenizer and card; an adapter's configuration without what differs between equal runs."""
    model, weights = trained.model, trained.weights
    if job.params.method == "full" and torch.cuda.is_available() and use_bf16(job.params):
        model.to(torch.bfloat16)
        weights = {name: w.to(torch.bfloat16) for name, w in weights.items()} if weights is not None else None
    model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    trained.tokenizer.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        config = json.loads(adapter.read_text(encoding="utf-8"))
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()  # PEFT writes a set
        write_json(adapter, config)
    card = TunedCard(
        base=job.base,
        base_digest=model_digest(job.base),
        base_quantisation=quantisation_of(read_card(Path(job.base))),
        data_set=str(job.data_set),
        data_set_sha256=job.data_digests(),
        seed=job.seed,
        processes=process_count(job.params.cpu_processes),
        params=job.params.model_dump(exclude=PARAMS_WITHOUT_EFFECT),
        **dict(trained.result.figures()),
    )
    write_json(folder / CARD, card.model_dump(exclude={"trained_token_share"}))


if __name__ == "__main__":
    serve_as_replica(lambda job, ready: train(TuningJob.model_validate_json(job), ready=ready))
