"""Tuning: one variant, with the loss masked on the mistaken turns: python -m flows.tuning refinement

On several GPUs: accelerate launch --config_file configs/fsdp.yaml -m flows.tuning refinement
"""

import os
import shlex

from prefect import flow

from agentrefine.errors import UserError
from agentrefine.params import load_params
from agentrefine.report.timing import timed, tuning_result
from flows.command import exit_with_sentence, parse, run_stage
from flows.side_by_side import run_to_its_end
from tasks.checks import check_launcher
from tasks.tracking.flow_runs import describe_stage
from tasks.tuning import tune_variant, tuning_job


@flow(name="tuning", flow_run_name="tuning {variant}")
def tuning(variant: str) -> None:
    """Write `models/<variant>/` and `reports/tuning/<variant>/` from the variant's data set and `models/base/`.

    Raises:
        UserError: a variant that params.yaml does not name, a missing data set, or a model that cannot be tuned.
    """
    params = load_params()
    describe_stage(params, "tuning", variant=variant)
    with timed(f"tuning@{variant}", tuning_result(variant)):
        tune_variant(variant, params)


def tune(variant: str) -> None:
    """Run the stage as a command, or take part as one of the processes after the first, which alone logs and writes.

    Raises:
        UserError: as the flow.
    """
    if int(os.environ.get("RANK", "0")) == 0:
        run_stage(lambda: tuning, variant=variant)
        return
    from agentrefine.tuning.train import train  # imports torch, transformers and trl

    train(tuning_job(variant, load_params()))


def launch(variant: str, launcher: str) -> None:
    """Run the stage's command by `tuning.launcher`, which starts its processes.

    Raises:
        UserError: the launcher is not installed, or the command failed.
    """
    check_launcher(launcher)
    command = [*shlex.split(launcher), "-m", "flows.tuning", variant]
    status = run_to_its_end(command)
    if status:
        sentence = f"tuning@{variant}: `{shlex.join(command)}` failed with status {status}; see above."
        raise UserError("stage_failed", sentence, stage=f"tuning@{variant}", status=status)


if __name__ == "__main__":
    chosen = parse(__doc__, "variant")["variant"]
    exit_with_sentence(lambda: tune(chosen))
