"""Base model: the model that is tuned, made here or taken from elsewhere: python -m flows.base_model"""

from prefect import flow

from agentrefine.params import load_params
from flows.command import run
from tasks.base_model import prepare_base_model


@flow(name="base_model", flow_run_name="base_model")
def base_model() -> None:
    """Write `models/base/`.

    Raises:
        UserError: a path or hub id that holds no usable model.
    """
    prepare_base_model(load_params())


if __name__ == "__main__":
    run(base_model, __doc__)
