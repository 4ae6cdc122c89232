"""Tuning one variant as a task."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task
from pydantic import BaseModel

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, write_json
from agentrefine.params import Params
from agentrefine.params.tuning import BASE, Variant
from agentrefine.report.inputs import read_curve
from tasks import tracking
from tasks.progress import progress

if TYPE_CHECKING:
    from agentrefine.tuning.train import TuningJob, TuningResult

VERSION = "1"
DATA_SET = Path("data/dataset")
MODELS = Path("models")
REPORTS = Path("reports/tuning")
CHECKPOINTS = Path("checkpoints")
"""Outside what DVC removes before it runs the stage again; where an interrupted tuning goes on."""


@task(name="tuning", version=VERSION, task_run_name="tuning-{variant}")
def tune_variant(variant: str, params: Params) -> None:
    """Tune the base model on the data set with the loss of `variant`, and log it as a run of its own.

    Raises:
        UserError: a variant that params.yaml does not name, a missing data set, a model that cannot be tuned.
    """
    from agentrefine.tuning.models import model_digest  # imports torch, transformers and trl
    from agentrefine.tuning.train import tune
    from tasks.live_curve import LiveCurve, LiveProgress

    job = tuning_job(variant, params)
    out = MODELS / variant
    with (
        tracking.live_run(variant, params.tracking) as live,
        progress(f"tuning {variant}", 100, "percent", bar=False) as done,
    ):
        callbacks = [LiveCurve(variant, live, params.tracking), LiveProgress(done)]
        result = tune(job, out, callbacks)
        _write_results(variant, result)
    get_run_logger().info(
        "%s: %d tokens in %.0f s (%.0f tokens/s), %.0f%% of them trained, loss %.3f",
        variant, result.tokens, result.seconds, result.tokens_per_second,
        100 * result.trained_tokens / result.tokens, result.train_loss,
    )  # fmt: skip
    log_results(variant, tracking.adopt(live, variant, model_digest(out), params.tracking), params)


def tuning_job(variant: str, params: Params) -> "TuningJob":
    """What `variant` is tuned on, the same for every process that takes part.

    Raises:
        UserError: a variant that params.yaml does not name, or a missing data set.
    """
    from agentrefine.tuning.train import TuningJob

    chosen = _variant(variant, params)
    data_set = Path(chosen.data_set)
    if not all((data_set / name).is_file() for name in ("train.jsonl", "validation.jsonl")):
        raise UserError(
            f"{data_set}: there is no data set (train.jsonl and validation.jsonl); run the stage that writes it "
            f"(quality_gate writes {DATA_SET} if it passes), or correct tuning.variants.{variant}.data_set."
        )
    return TuningJob(
        loss=chosen.loss,
        data_set=data_set,
        base=str(MODELS / BASE),
        params=params.tuning,
        seed=params.seed,
        checkpoints=CHECKPOINTS / variant,
    )


def log_results(variant: str, run_id: str, params: Params) -> None:
    """Log a tuned variant from its files.

    Raises:
        UserError: a file is missing, or a tracking store that cannot be used.
    """
    file = REPORTS / variant / "metrics.json"
    if not file.is_file():
        raise UserError(f"{file}: no such file; run the stage tuning@{variant}, which writes it.")
    figures = json.loads(file.read_text(encoding="utf-8"))
    tracking.log_tuning(
        run_id,
        params,
        data_set=Path(_variant(variant, params).data_set) / "train.jsonl",
        curve=read_curve(REPORTS / variant / "loss_curve.csv", variant),
        validation_curve=read_curve(REPORTS / variant / "validation_curve.csv", variant),
        metrics=dict(_numbers(figures)),
        folder=MODELS / variant,
    )


def _variant(name: str, params: Params) -> Variant:
    if name not in params.tuning.variants:
        raise UserError(f"tuning.variants in params.yaml does not name {name!r}; add it, with its loss and data set.")
    return params.tuning.variants[name]


def _write_results(variant: str, result: "TuningResult") -> None:
    """The figures that stay the same when tuning is repeated, and the loss curves."""
    from agentrefine.tuning.trainer import LossPoint, ValidationPoint

    figures = result.model_dump(exclude={"curve", "validation_curve", "resumed_at", "seconds", "tokens_per_second"})
    figures["trained_token_share"] = result.trained_tokens / result.tokens
    write_json(REPORTS / variant / "metrics.json", figures)
    _write_table(REPORTS / variant / "loss_curve.csv", LossPoint, result.curve)
    _write_table(REPORTS / variant / "validation_curve.csv", ValidationPoint, result.validation_curve)


def _write_table(path: Path, row: type[BaseModel], rows: Sequence[BaseModel]) -> None:
    with atomic_write(path) as handle:
        writer = csv.DictWriter(handle, list(row.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(r.model_dump() for r in rows)


def _numbers(figures: dict[str, object]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in figures.items() if isinstance(value, int | float)]
