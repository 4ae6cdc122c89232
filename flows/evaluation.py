"""Evaluation: a model plays the held-out benchmarks: python -m flows.evaluation base"""

from prefect import flow

from agentrefine.params import Params, load_params
from flows.command import run
from tasks.playing import Player, evaluate
from tasks.tracking.flow_runs import describe_stage


@flow(name="evaluation", flow_run_name="evaluation {model}")
def evaluation(model: str) -> None:
    """Write `data/evaluation/<model>/`; the model is `chance`, `base`, a tuned variant, or an endpoint's name.

    Raises:
        UserError: as `player`, a benchmark that is unknown or missing, an endpoint that refuses, or a full disk.
    """
    params = load_params()
    describe_stage(params, "evaluation", model=model)
    evaluate(player(model, params), params)


def player(model: str, params: Params) -> Player:
    """Who plays under a name of params.yaml.

    Raises:
        UserError: a model that params.yaml does not name, missing weights, or a price that has to be known.
    """
    # Each imports libraries that take a second or more, of which the others have no use.
    if model in params.evaluation.references:
        from tasks.reference_evaluation import reference_player

        return reference_player(model, params)
    if model in params.evaluation.endpoints:
        from tasks.endpoint_evaluation import endpoint_player

        return endpoint_player(model, params)
    from tasks.evaluation import local_player

    return local_player(model, params)


if __name__ == "__main__":
    run(evaluation, __doc__)
