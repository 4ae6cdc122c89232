"""Evaluation: a model plays the held-out benchmarks: python -m flows.evaluation base"""

from prefect import flow

from agentrefine.params import load_params
from flows.command import run
from tasks.endpoint_evaluation import evaluate_endpoint
from tasks.evaluation import evaluate_model
from tasks.reference_evaluation import evaluate_reference


@flow(name="evaluation", flow_run_name="evaluation-{model}")
def evaluation(model: str) -> None:
    """Write `data/evaluation/<model>/`.

    Args:
        model: `chance`, `base`, a tuned variant, or one of `evaluation.endpoints` in params.yaml.

    Raises:
        UserError: a model that params.yaml does not name, or a benchmark that is not installed.
    """
    params = load_params()
    if model in params.evaluation.references:
        evaluate_reference(model, params)
    elif model in params.evaluation.endpoints:
        evaluate_endpoint(model, params)
    else:
        evaluate_model(model, params)


if __name__ == "__main__":
    run(evaluation, __doc__, ["model"])
