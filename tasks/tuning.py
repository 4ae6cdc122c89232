"""Tuning one variant as a task."""

import csv
from pathlib import Path
from typing import get_args

from prefect import get_run_logger, task

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, write_json
from agentrefine.params import BASE, Params, Variant
from agentrefine.report_inputs import CurvePoint
from tasks import tracking

VERSION = "1"
DATA_SET = Path("data/dataset")
MODELS = Path("models")
REPORTS = Path("reports/tuning")


@task(name="tuning", version=VERSION, task_run_name="tuning-{variant}")
def tune_variant(variant: str, params: Params) -> None:
    """Tune the base model on the data set with the loss of `variant`, and log it as a run of its own.

    Raises:
        UserError: a variant that params.yaml does not name, a missing data set, a model that cannot be tuned.
    """
    from agentrefine.tuning.models import model_digest  # imports torch, transformers and trl
    from agentrefine.tuning.trainer import tune
    from tasks.live_curve import LiveCurve

    if variant not in params.tuning.variants:
        known = ", ".join(get_args(Variant))
        raise UserError(f"tuning.variants in params.yaml does not name {variant!r}; add it there, as one of {known}.")
    if not (DATA_SET / "train.jsonl").is_file():
        raise UserError(f"{DATA_SET}: there is no data set; run the stage quality_gate, which writes it if it passes.")
    out = MODELS / variant
    with tracking.live_run(variant, params.tracking) as live:
        curve = LiveCurve(variant, live, params.tracking)
        result = tune(variant, DATA_SET, MODELS / BASE, out, params.tuning, params.seed, [curve])
    figures = result.model_dump(exclude={"curve", "seconds", "tokens_per_second"})
    figures["trained_token_share"] = result.trained_tokens / result.tokens
    write_json(REPORTS / variant / "metrics.json", figures)
    with atomic_write(REPORTS / variant / "loss_curve.csv") as handle:
        writer = csv.DictWriter(handle, ["step", "loss", "tokens", "learning_rate"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(point.model_dump() for point in result.curve)
    get_run_logger().info(
        "%s: %d tokens in %.0f s (%.0f tokens/s), %.0f%% of them trained, loss %.3f",
        variant, result.tokens, result.seconds, result.tokens_per_second,
        100 * figures["trained_token_share"], result.train_loss,
    )  # fmt: skip
    run_id = tracking.adopt(live, variant, model_digest(out), params.tracking)
    tracking.log_tuning(
        run_id,
        params,
        data_set=DATA_SET / "train.jsonl",
        curve=[CurvePoint(variant, point.step, point.tokens, point.loss) for point in result.curve],
        metrics={name: float(value) for name, value in _numbers(figures)},
        folder=out,
    )


def _numbers(figures: dict[str, object]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in figures.items() if isinstance(value, int | float)]
