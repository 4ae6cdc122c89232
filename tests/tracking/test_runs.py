"""Which run is which, in a real store: found again by every stage, continued after a kill, replaced by another."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.exceptions import TerminationSignal

from agentrefine.params import Params
from agentrefine.report.inputs import Project
from tasks.tracking import contents, runs
from tasks.tracking.measures import LOSS, Point
from tests.helpers.paths import ROOT
from tests.helpers.results_tree import episodes, write_evaluation
from tests.tracking.stages import evaluated, tuned


def all_runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("agentrefine")
    return list(client.search_runs([experiment.experiment_id]))


def names(client: MlflowClient) -> list[str]:
    return sorted(run.info.run_name for run in all_runs(client))


def parent(client: MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).data.tags["mlflow.parentRunId"])


def test_models_stand_under_their_pipeline_and_evaluations_under_their_models(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tuned(params, tmp_path, "d1")
    evaluated(params, tmp_path, "refinement", "d1", 13)
    evaluated(params, tmp_path, "base", "d0", 1)
    evaluated(params, tmp_path, "chance", "c0", 1)
    assert names(client) == [
        "base / evaluation", "base / tiny / seed 7", "chance / evaluation", "chance / seed 7",
        "pipeline / tiny / seed 7", "refinement / evaluation", "refinement / tiny / seed 7",
    ]  # fmt: skip
    pipeline = client.get_run(parent(client, run_id))
    assert pipeline.info.run_name == "pipeline / tiny / seed 7"
    evaluation = runs.current_evaluation(client, run_id)
    assert evaluation is not None
    assert evaluation.info.run_name == "refinement / evaluation"
    assert evaluation.data.params["evaluation.max_steps"] == str(params.evaluation.max_steps)
    assert {run.info.status for run in all_runs(client)} == {"FINISHED"}


def with_seeds(params: Params, seeds: list[int]) -> Params:
    """The parameters with refinement once for each seed."""
    values = params.model_dump()
    (refinement, plain) = (values["tuning"]["variants"][name] for name in ("refinement", "expert_only"))
    variants = {f"refinement-{seed}": refinement | {"seed": seed} for seed in seeds}
    values["tuning"]["variants"] = {"expert_only": plain, **variants}
    values["evaluation"]["models"] = ["base", "expert_only", *variants]
    return Params.model_validate(values)


def test_the_models_of_a_variants_seeds_stand_under_one_run_that_has_their_means(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    both = with_seeds(params, [7, 8])
    ids = {}
    for seed, solved in ((7, 8), (8, 12)):
        ids[seed] = runs.model_run(f"refinement-{seed}", f"d{seed}", both)
        evaluated(both, tmp_path, f"refinement-{seed}", f"d{seed}", solved)
    above = {parent(client, run_id) for run_id in ids.values()}
    assert len(above) == 1
    variant = client.get_run(above.pop())
    assert variant.info.run_name == "refinement / tiny / all seeds"
    assert (variant.data.tags["role"], variant.data.tags["seeds"]) == ("variant", "2")
    assert variant.data.metrics["success/worlds_layouts"] == 0.5
    assert [client.get_run(ids[seed]).info.run_name for seed in ids] == [
        "refinement / tiny / seed 7", "refinement / tiny / seed 8"
    ]  # fmt: skip
    assert [client.get_run(ids[seed]).data.params["seed"] for seed in ids] == ["7", "8"]
    assert {client.get_run(ids[seed]).data.tags["variant"] for seed in ids} == {"refinement"}
    assert runs.pipeline_of(client, ids[7]) == parent(client, variant.info.run_id)


def test_a_seed_that_was_not_measured_is_in_no_mean(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    both = with_seeds(params, [7, 8])
    failed = [e.model_copy(update={"stop": "environment error"}) for e in episodes("refinement-7", 0)]
    run_id = runs.model_run("refinement-7", "d7", both)
    write_evaluation(tmp_path / "failed", "refinement-7", failed)
    with runs.live_evaluation("refinement-7", "d7", both) as into:
        contents.log_evaluation("refinement-7", into, both, Project(tmp_path / "failed"))
    variant = parent(client, run_id)
    assert client.get_run(variant).data.metrics == {}
    runs.model_run("refinement-8", "d8", both)
    evaluated(both, tmp_path, "refinement-8", "d8", 12)
    assert client.get_run(variant).data.metrics["success/worlds_layouts"] == 0.6
    assert client.get_run(variant).data.tags["seeds"] == "1"


def test_a_further_seed_joins_its_variant_and_changes_no_other_run(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    first = runs.model_run("refinement-7", "d7", with_seeds(params, [7]))
    variant = parent(client, first)
    second = runs.model_run("refinement-8", "d8", with_seeds(params, [7, 8]))
    assert parent(client, second) == parent(client, first) == variant
    assert {run.info.run_id for run in runs.models_of(client, variant)} == {first, second}


def test_a_repeated_evaluation_updates_its_run_and_one_by_other_rules_replaces_it(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tuned(params, tmp_path, "d1")
    evaluated(params, tmp_path, "refinement", "d1", 13)
    first = runs.current_evaluation(client, run_id)
    evaluated(params, tmp_path, "refinement", "d1", 12)
    again = runs.current_evaluation(client, run_id)
    assert first is not None
    assert again is not None
    assert again.info.run_id == first.info.run_id
    shorter = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"max_steps": 7})})
    evaluated(shorter, tmp_path, "refinement", "d1", 2)
    last = runs.current_evaluation(client, run_id)
    assert last is not None
    assert last.data.params["evaluation.max_steps"] == "7"
    assert client.get_run(first.info.run_id).data.tags["replaced_by"] == last.info.run_id
    assert client.get_run(run_id).data.metrics["success/worlds_layouts"] == 0.1
    assert len([name for name in names(client) if name == "refinement / tiny / seed 7"]) == 1


def test_another_tuning_of_a_variant_replaces_the_earlier_one_and_comes_back_when_its_bytes_do(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    first = tuned(params, tmp_path, "d1")
    second = tuned(params, tmp_path, "d2")
    assert client.get_run(first).data.tags["replaced_by"] == second
    assert "replaced_by" not in client.get_run(second).data.tags
    assert tuned(params, tmp_path, "d1") == first
    assert "replaced_by" not in client.get_run(first).data.tags
    assert client.get_run(second).data.tags["replaced_by"] == first
    assert len(client.get_metric_history(first, LOSS)) == 30


def test_changed_settings_that_give_equal_bytes_move_the_model_to_the_new_pipeline(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    first = tuned(params, tmp_path, "d1")
    earlier = parent(client, first)
    slower = params.model_copy(update={"teacher": params.teacher.model_copy(update={"concurrency": 1})})
    assert tuned(slower, tmp_path, "d1") == first
    assert parent(client, first) != earlier
    assert client.get_run(earlier).data.tags["replaced_by"] == parent(client, first)


def test_settings_of_the_evaluation_and_the_report_stay_in_the_pipeline(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tuned(params, tmp_path, "d1")
    before = parent(client, run_id)
    shorter = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"episodes": 7})})
    evaluated(shorter, tmp_path, "refinement", "d1", 2)
    assert parent(client, run_id) == before


def test_the_curve_that_was_watched_continues_in_the_finished_run(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    with runs.live_model("refinement", params, "key of d1") as live:
        contents.log_points(live, params.tracking, {LOSS: [Point(step, 3.0 / step) for step in range(1, 4)]})
        assert client.get_run(live).info.status == "RUNNING"
        assert runs.adopt(live, "refinement", "d1", params) == live
    assert client.get_run(live).info.status == "FINISHED"
    assert "process" not in client.get_run(live).data.tags
    assert tuned(params, tmp_path, "d1") == live
    assert [metric.step for metric in client.get_metric_history(live, LOSS)] == list(range(1, 31))


def test_a_live_run_with_bytes_that_are_known_gives_way_to_the_earlier_run(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    first = tuned(params, tmp_path, "d1")
    with runs.live_model("refinement", params, "key") as live:
        assert runs.adopt(live, "refinement", "d1", params) == first
    assert client.get_run(live).info.lifecycle_stage == "deleted"
    assert names(client) == ["pipeline / tiny / seed 7", "refinement / tiny / seed 7"]


KILLED = """
import os, sys
from pathlib import Path
from agentrefine.params import load_params
from tasks.tracking import contents, runs
from tasks.tracking.measures import LOSS, Point
from tests.helpers.results_tree import params_for
params = params_for(Path.cwd())
with runs.live_model("refinement", params, "key of d1") as live:
    contents.log_points(live, params.tracking, {LOSS: [Point(step, 3.0 / step) for step in range(1, 4)]})
    print(live, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_tuning_ends_as_killed_at_the_next_start_and_continues_in_its_run(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    killed = done.stdout.strip()
    assert client.get_run(killed).info.status == "RUNNING"
    last = client.get_metric_history(killed, LOSS)[-1].timestamp
    time.sleep(0.05)
    with runs.live_model("expert_only", params, "another") as other:
        found = client.get_run(killed)
        assert (found.info.status, found.info.end_time) == ("KILLED", last)
        assert client.get_run(other).info.status == "RUNNING"
        with runs.live_model("refinement", params, "key of d1") as live:
            assert live == killed
            assert client.get_run(live).info.status == "RUNNING"
            assert client.get_run(other).info.status == "RUNNING"
    with runs.live_model("refinement", params, "other steps") as new:
        assert new != killed


def test_a_run_that_continues_lasts_as_long_as_it_has_worked(params: Params, client: MlflowClient) -> None:
    seconds = []
    for pause in (1.0, 0.0):
        began = time.monotonic()
        with runs.live_evaluation("chance", "c", params) as into:
            time.sleep(0.2)
        seconds.append(time.monotonic() - began)
        time.sleep(pause)
    found = client.get_run(into.evaluation).info
    assert 400 <= found.end_time - found.start_time <= 1000 * sum(seconds)


def test_failed_tuning_leaves_a_failed_run(params: Params, client: MlflowClient) -> None:
    with pytest.raises(ZeroDivisionError), runs.live_model("refinement", params, "key") as live:
        _ = 1 / 0
    assert client.get_run(live).info.status == "FAILED"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), TerminationSignal(signal.SIGTERM)])
def test_an_interrupted_evaluation_is_killed_and_continues(
    params: Params, client: MlflowClient, stop: BaseException
) -> None:
    with pytest.raises(type(stop)), runs.live_evaluation("chance", "c", params) as first:
        raise stop
    assert {client.get_run(run_id).info.status for run_id in first} == {"KILLED"}
    with runs.live_evaluation("chance", "c", params) as again:
        assert again == first


def test_failed_tuning_tells_its_own_reason_when_the_store_is_lost_too(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise OSError("the store is gone")

    def fail() -> None:
        monkeypatch.setattr(MlflowClient, "set_terminated", lost)
        _ = 1 / 0

    with pytest.raises(ZeroDivisionError), runs.live_model("refinement", params, "key"):
        fail()


def test_a_pipeline_in_one_process_lasts_as_long_as_its_stages(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    with runs.live_pipeline(params) as pipeline:
        run_id = tuned(params, tmp_path, "d1")
        assert client.get_run(pipeline).info.status == "RUNNING"
    assert parent(client, run_id) == pipeline
    found, model = client.get_run(pipeline).info, client.get_run(run_id).info
    assert found.status == "FINISHED"
    assert found.start_time <= model.start_time <= model.end_time <= found.end_time


def test_the_source_of_a_run_is_the_command_that_repeats_it(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    tags = client.get_run(tuned(params, tmp_path, "d1")).data.tags
    assert tags["mlflow.source.name"] == "agentrefine tune refinement"
    assert tags["mlflow.source.git.commit"] == head
