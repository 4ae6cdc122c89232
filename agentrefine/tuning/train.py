"""Refinement tuning: cross-entropy on the tokens of correct turns only (paper, section 3.3), by TRL's SFTTrainer."""

import errno
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from agentrefine.errors import UserError
from agentrefine.files import atomic_folder, write_json
from agentrefine.tuning.cards import CARD, TunedCard
from agentrefine.tuning.distributed import replicas
from agentrefine.tuning.hardware import threads_for, use_bf16
from agentrefine.tuning.job import HOW_NOT_WHAT, TuningJob
from agentrefine.tuning.loop import Trained, processes, train
from agentrefine.tuning.models import model_digest, quantisation
from agentrefine.tuning.results import TuningResult
from agentrefine.tuning.trainer import TokenBar, last_tenth, thinned

WAYS_OUT = (
    "lower tuning.batch_tokens or tuning.max_length, raise tuning.gradient_accumulation_steps, or set "
    "tuning.activation_checkpointing: true or tuning.method: lora"
)


@contextmanager
def machine_failures() -> Iterator[None]:
    """Turn a full memory or a full disk into one sentence; other errors pass.

    Raises:
        UserError: memory ran out, or the disk is full.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(f"tuning: memory ran out ({_first_line(error)}); {WAYS_OUT}.") from error
    except (RuntimeError, SafetensorError, OSError) as error:
        if _no_space(error):
            raise UserError(
                "tuning: the disk is full; free some space and run the same command again, which goes on at the last "
                "checkpoint."
            ) from error
        if "can't allocate memory" in str(error):
            raise UserError(f"tuning: memory ran out ({_first_line(error)}); {WAYS_OUT}.") from error
        raise


def _no_space(error: BaseException) -> bool:
    """Whether a full disk is behind an error: torch's and safetensors' writers tell of it in words, or not at all."""
    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return True
    said = str(error)
    return "No space left" in said or "PytorchStreamWriter failed" in said or "unexpected pos" in said


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


CURVE_POINTS = 100
"""About how many points a loss curve has."""


def tune(job: TuningJob, out: Path, callbacks: Sequence[TrainerCallback] = ()) -> TuningResult:
    """Tune a model and write it, or its adapter, to the folder `out`.

    Runs in the first process of a tuning; the others are started here on a CPU, and elsewhere run `follow`. Equal jobs
    give equal bytes on equal hardware, also where one was interrupted and goes on at a checkpoint.

    Args:
        job: what is tuned on what.
        out: replaced as a whole once everything is written.
        callbacks: further callbacks of the trainer, such as one that logs to a tracking server.

    Raises:
        UserError: a bad data set, base, chat template or parameter; a full disk, a full memory.
    """
    with (
        atomic_folder(out) as folder,
        tempfile.TemporaryDirectory(prefix="agentrefine-tuning-") as scratch,
        replicas(processes(job), job.params.cpu_threads) as others,
        threads_for(job.params),
        machine_failures(),
    ):
        others.begin(job)
        try:
            trained = train(
                job,
                Path(scratch),
                callbacks=lambda counts: [
                    TokenBar(counts.tokens * job.params.epochs, counts.trained_token_share, out.name), *callbacks
                ],
                ready=others.wait,
            )  # fmt: skip
        except RuntimeError as error:
            raise others.explain(error) from error
        result = _result(job, trained)
        _save(job, trained, folder)
        write_json(folder / CARD, _card(job, result).model_dump(exclude={"trained_token_share"}))
    if job.checkpoints is not None:
        shutil.rmtree(job.checkpoints, ignore_errors=True)
    return result


def follow(job: TuningJob) -> None:
    """Be one of the other processes of a tuning that torchrun or accelerate has started; writes nothing.

    Raises:
        UserError: as `tune`.
    """
    with (
        machine_failures(),
        tempfile.TemporaryDirectory(prefix="agentrefine-tuning-") as scratch,
        threads_for(job.params),
    ):
        train(job, Path(scratch))


def _result(job: TuningJob, trained: Trained) -> TuningResult:
    rendering = trained.rendering
    return TuningResult(
        loss=job.loss,
        parameters=trained.parameters,
        trainable_parameters=trained.trainable_parameters,
        rendering=rendering,
        steps=trained.steps,
        resumed_at=trained.resumed_at,
        tokens=trained.tokens,
        trained_tokens=round(trained.tokens * rendering.trained_token_share),
        seconds=trained.seconds,
        tokens_per_second=trained.tokens_per_second,
        train_loss=last_tenth(trained.curve),
        validation_loss_before=trained.validation_curve[0].loss if trained.validation_curve else None,
        validation_loss=trained.validation_loss,
        curve=thinned(trained.curve, CURVE_POINTS),
        validation_curve=trained.validation_curve,
    )


def _save(job: TuningJob, trained: Trained, folder: Path) -> None:
    """Write weights and tokenizer; an adapter's configuration without what differs between equal runs."""
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


def _card(job: TuningJob, result: TuningResult) -> TunedCard:
    """What the model is and how it came about."""
    return TunedCard(
        base=job.base,
        base_digest=model_digest(job.base),
        base_quantisation=quantisation(job.base),
        data_set=str(job.data_set),
        data_set_sha256=job.data_digests(),
        seed=job.seed,
        processes=processes(job),
        params=job.params.model_dump(exclude=HOW_NOT_WHAT),
        **dict(result.figures()),
    )
