"""Tuning one variant as a task."""

from pathlib import Path
from typing import TYPE_CHECKING

from prefect import get_run_logger, task

from agentrefine.errors import UserError, not_named
from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.tuning.results import write_results
from tasks.tracking import runs
from tasks.tracking.contents import log_tuning
from tasks.tracking.progress import progress

if TYPE_CHECKING:
    from agentrefine.tuning.train import TuningJob

DATA_SET = Path("data/dataset")
MODELS = Path("models")
REPORTS = Path("reports/tuning")
CHECKPOINTS = Path("checkpoints")
"""Outside what DVC removes before it runs the stage again; where an interrupted tuning resumes."""


@task(name="tuning", task_run_name="tuning-{variant}")
def tune_variant(variant: str, params: Params) -> None:
    """Tune the base model on the data set of `variant` with its mask policy, and log it as a run of its own.

    Raises:
        UserError: a variant that params.yaml does not name, a missing data set, a model that cannot be tuned.
    """
    from agentrefine.tuning.distributed import process_count  # imports torch, transformers and trl
    from agentrefine.tuning.models import model_digest
    from agentrefine.tuning.train import tune
    from tasks.tracking.live_curve import LiveCurve

    job = tuning_job(variant, params)
    out = MODELS / variant
    with runs.live_model(variant, params, job.key(process_count(params.tuning.cpu_processes))) as live:
        with progress(f"tuning {variant}", 100, "percent", bar=False) as done:
            result = tune(job, out, [LiveCurve(live, params.tracking, done)])
        write_results(REPORTS / variant, result)
        run_id = runs.adopt(live, variant, model_digest(out), params)
    get_run_logger().info(
        "%s: %d tokens in %.0f s (%.0f tokens/s), %.0f%% of them trained, loss %.3f",
        variant, result.tokens, result.seconds, result.tokens_per_second,
        100 * result.trained_token_share, result.train_loss,
    )  # fmt: skip
    log_tuning(variant, run_id, params)


def tuning_job(variant: str, params: Params) -> "TuningJob":
    """What `variant` is tuned on, the same for every process that takes part.

    Raises:
        UserError: a variant that params.yaml does not name, or a missing data set.
    """
    from agentrefine.tuning.train import TuningJob

    chosen = params.tuning.variants.get(variant)
    if chosen is None:
        raise not_named("tuning.variants", variant, "add it, with train_on and data_set")
    data_set = Path(chosen.data_set)
    if not all((data_set / name).is_file() for name in ("train.jsonl", "validation.jsonl")):
        message = (
            f"{data_set}: there is no data set (train.jsonl and validation.jsonl); run the stage that writes it "
            f"(quality_gate writes {DATA_SET} if it passes), or correct tuning.variants.{variant}.data_set."
        )
        raise UserError("stage_not_run", message, file=data_set, key=f"tuning.variants.{variant}.data_set")
    return TuningJob(
        train_on=chosen.train_on,
        data_set=data_set,
        base=str(MODELS / BASE),
        params=params.tuning,
        seed=params.seed if chosen.seed is None else chosen.seed,
        checkpoints=CHECKPOINTS / variant,
    )
