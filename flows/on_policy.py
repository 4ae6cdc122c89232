"""On-policy data: a tuned model's own mistakes, each corrected by an expert: python -m flows.on_policy round1"""

from prefect import flow

from agentrefine.params import load_params
from agentrefine.report.timing import data_set_result, timed
from flows.command import run
from tasks.on_policy import write_on_policy
from tasks.tracking.flow_runs import describe_stage


@flow(name="on_policy", flow_run_name="on_policy {name}")
def on_policy(name: str) -> None:
    """Write `data/on_policy/<name>/` with the model and the settings that the key `name` of `on_policy` names.

    Raises:
        UserError: as the task.
    """
    params = load_params()
    describe_stage(params, "on_policy", data_set=name)
    with timed(f"on_policy@{name}", data_set_result("on_policy", name)):
        write_on_policy(name, params)


if __name__ == "__main__":
    run(on_policy, __doc__)
