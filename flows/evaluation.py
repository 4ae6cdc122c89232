"""Evaluation: a model plays the held-out benchmarks: python -m flows.evaluation base"""

from prefect import flow

from agentrefine.params import Params, load_params
from flows.command import run
from tasks.endpoint_evaluation import endpoint_player
from tasks.evaluation import local_player
from tasks.playing import Player, evaluate
from tasks.reference_evaluation import reference_player


@flow(name="evaluation", flow_run_name="evaluation-{model}")
def evaluation(model: str) -> None:
    """Write `data/evaluation/<model>/`; the model is `chance`, `base`, a tuned variant, or an endpoint's name.

    Raises:
        UserError: as `player`, a benchmark that is unknown or missing, an endpoint that refuses, or a full disk.
    """
    params = load_params()
    evaluate(player(model, params), params)


def player(model: str, params: Params) -> Player:
    """Who plays under a name of params.yaml.

    Raises:
        UserError: a model that params.yaml does not name, missing weights, or a price that has to be known.
    """
    if model in params.evaluation.references:
        return reference_player(model, params)
    if model in params.evaluation.endpoints:
        return endpoint_player(model, params)
    return local_player(model, params)


if __name__ == "__main__":
    run(evaluation, __doc__)
