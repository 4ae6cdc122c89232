"""Tuning: one variant, with the loss masked on the mistaken turns: python -m flows.tuning refinement"""

from prefect import flow

from agentrefine.params import load_params
from flows.command import run
from tasks.tuning import tune_variant


@flow(name="tuning", flow_run_name="tuning-{variant}")
def tuning(variant: str) -> None:
    """Write `models/<variant>/` and `reports/tuning/<variant>/` from `data/dataset/` and `models/base/`.

    Args:
        variant: one of `tuning.variants` in params.yaml.

    Raises:
        UserError: a variant that params.yaml does not name, or a model that cannot be tuned.
    """
    tune_variant(variant, load_params())


if __name__ == "__main__":
    run(tuning, __doc__, ["variant"])
