"""Mix: games and general chat in one data set: python -m flows.mix chat20"""

from prefect import flow

from agentrefine.params import load_params
from agentrefine.report.timing import data_set_result, timed
from flows.command import run
from tasks.mix import mix_data_set
from tasks.tracking.flow_runs import describe_stage


@flow(name="mix", flow_run_name="mix {name}")
def mix(name: str) -> None:
    """Write `data/mix/<name>/` from the data set and the chat file that the key `name` of the section `mix` names.

    Raises:
        UserError: a name that params.yaml does not know, a missing or broken file, or too few chats.
    """
    params = load_params()
    describe_stage(params, "mix", mix=name)
    with timed(f"mix@{name}", data_set_result("mix", name)):
        mix_data_set(name, params)


if __name__ == "__main__":
    run(mix, __doc__)
