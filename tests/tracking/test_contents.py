"""What the runs hold, in a real store: a few metrics, the same parameters on every run, one table, no secret."""

import json
import math
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from agentrefine.evaluation.metrics import summarise
from agentrefine.files import write_json
from agentrefine.params import Params
from tasks.tracking import contents, runs
from tasks.tracking.measures import LEARNING_RATE, LOSS, VALIDATION_LOSS, Point, result_rows
from tests.helpers.errors import refused
from tests.helpers.results_tree import episodes, write_evaluation, write_results
from tests.tracking.stages import evaluated, tuned

LOCK = """\
schema: '2.0'
stages:
  quality_gate:
    cmd: python -m flows.quality_gate
    outs:
    - path: data/dataset
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 12
"""


def test_a_tuned_and_evaluated_model_has_the_metrics_that_a_person_compares(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tuned(params, tmp_path, "d1")
    evaluated(params, tmp_path, "refinement", "d1", 13)
    found = client.get_run(run_id).data
    assert found.metrics == {
        "success/worlds_layouts": 0.65,
        "progress/worlds_layouts": 0.65,
        "recovery/worlds_layouts": 0.0,
        "heldout_success": 0.65,
        LOSS: 0.1,
        LEARNING_RATE: 0.001,
        VALIDATION_LOSS: 0.5,
    }
    assert [metric.step for metric in client.get_metric_history(run_id, VALIDATION_LOSS)] == [0, 10, 30]
    assert {tag: found.tags[tag] for tag in ("role", "train_on", "base", "teacher", "data_set_size")} == {
        "role": "tuned",
        "train_on": "correct_turns",
        "base": "tiny",
        "teacher": "simulated teacher",
        "data_set_size": "225 games, 0 tokens, 0% of them trained",
    }
    assert len([tag for tag in found.tags if not tag.startswith("mlflow.")]) < 12


def test_a_point_that_is_missing_in_the_middle_of_a_curve_is_added_when_tuning_is_over(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    with runs.live_model("refinement", params, "key of d1") as live:
        points = [Point(0, 3.0), Point(30, 0.5)]
        contents.log_points(live, params.tracking, {VALIDATION_LOSS: points, LOSS: points[1:]})
        assert runs.adopt(live, "refinement", "d1", params) == live
    assert tuned(params, tmp_path, "d1") == live
    assert sorted(metric.step for metric in client.get_metric_history(live, VALIDATION_LOSS)) == [0, 10, 30]
    assert sorted(metric.step for metric in client.get_metric_history(live, LOSS)) == list(range(1, 31))


def test_every_run_has_the_same_parameters_and_two_variants_differ_in_what_they_train(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    ids = {model: runs.model_run(model, "d", params) for model in ("chance", "base", "expert_only", "refinement")}
    logged = {model: client.get_run(run_id).data.params for model, run_id in ids.items()}
    assert len({tuple(sorted(found)) for found in logged.values()}) == 1
    assert 20 < len(logged["base"]) < 30
    plain, refined = logged["expert_only"], logged["refinement"]
    assert {key for key in plain if plain[key] != refined[key]} == {"train_on"}
    assert refined["tuning.learning_rate"] == str(params.tuning.learning_rate)
    assert (logged["base"]["tuning.learning_rate"], refined["tuning.lora.r"]) == ("-", "-")


def test_the_table_has_every_rate_with_its_interval_and_mlflow_shows_it(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tuned(params, tmp_path, "d1")
    for solved in (3, 13):  # the table of the last evaluation alone
        evaluated(params, tmp_path, "refinement", "d1", solved)
    table = json.loads(Path(client.download_artifacts(run_id, "results.json", str(tmp_path))).read_text())
    rows = {(row[0], row[1], row[2]): row[3:] for row in table["data"]}
    assert len(rows) == len(table["data"])
    assert table["columns"] == ["benchmark", "metric", "part", "value", "low", "high", "n"]
    assert rows["worlds_layouts", "success rate", ""] == [
        0.65,
        pytest.approx(0.433, abs=1e-3),
        pytest.approx(0.819, abs=1e-3),
        20,
    ]
    assert rows["worlds_layouts", "seconds per episode", ""] == [0.5, None, None, None]
    assert rows["worlds_layouts", "stopped: solved", ""][0] == 13
    # Each of the seven unsolved episodes has one error that another turn followed, and that turn repeats it.
    assert rows["worlds_layouts", "recovery within 3", ""][::3] == [0.0, 7]
    assert rows["worlds_layouts", "repeat rate", ""][::3] == [1.0, 7]
    assert rows["worlds_layouts", "turns to recover", ""] == [None, None, None, 0]
    assert rows["worlds_layouts", "recovery rate", "after unknown"] == rows["worlds_layouts", "recovery rate", ""]
    tags = client.get_run(run_id).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "results.json", "type": "table"}]


def test_the_table_has_recovery_by_kind_of_error_and_what_k_attempts_all_solve() -> None:
    played = [
        made.model_copy(update={"attempt": attempt})
        for attempt, solved in enumerate((2, 1))
        for made in episodes("m", solved, of=4)
    ]
    rows = {row[:3]: (row.value, row.n) for row in result_rows(summarise(played), {})}
    assert rows["worlds_layouts", "success in all n", ""] == (0.25, 4)
    assert rows["worlds_layouts", "success in all k", "k = 1"] == (0.375, 4)
    assert rows["worlds_layouts", "success in all k", "k = 2"] == (0.25, 4)
    assert rows["worlds_layouts", "recovery rate", "after unknown"] == (0.0, 5)


def test_a_run_shows_its_last_evaluation_only(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    run_id = tuned(params, tmp_path, "d1")
    for solved, benchmarks in ((2, ("babyai", "pddl")), (4, ("pddl",))):
        played = [played for name in benchmarks for played in episodes("refinement", solved, benchmark=name)]
        write_evaluation(tmp_path, "refinement", played)
        with runs.live_evaluation("refinement", "d1", params) as into:
            contents.log_evaluation("refinement", into, params)
    found = client.get_run(run_id).data.metrics
    assert (found["success/pddl"], found["heldout_success"]) == (0.2, 0.2)
    assert math.isnan(found["success/babyai"])
    assert found[LOSS] == 0.1


def test_episodes_lie_in_the_evaluation_and_the_model_in_its_run(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tuned(params, tmp_path, "d1")
    evaluated(params, tmp_path, "refinement", "d1", 13)
    evaluation = runs.current_evaluation(client, run_id)
    assert evaluation is not None
    assert evaluation.data.metrics == {}
    assert {file.path for file in client.list_artifacts(evaluation.info.run_id)} == {
        "episodes.jsonl", "details.json", "sample.md"
    }  # fmt: skip
    assert {file.path for file in client.list_artifacts(run_id)} == {"model", "params.yaml", "results.json"}


def test_the_data_set_is_an_input_with_rows_tokens_mistakes_and_what_the_gate_said(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "dvc.lock").write_text(LOCK)
    write_results(tmp_path)
    run = client.get_run(tuned(params, tmp_path, "d1"))
    data_set = run.inputs.dataset_inputs[0].dataset
    assert data_set.name == "data/dataset/train.jsonl"
    assert data_set.digest == "0123456789abcdef0123456789abcdef.dir"
    profile = json.loads(data_set.profile)
    assert len(profile["sha256"]) == 64
    assert (profile["num_rows"], profile["quality_gate"]) == (1, "passed")
    assert profile["quality_gate_warnings"] == ["action_entropy"]
    assert [column["name"] for column in json.loads(data_set.schema)["mlflow_colspec"]] == ["id", "conversations"]


def test_a_data_set_of_corrected_games_has_what_its_own_gate_said(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    write_results(tmp_path)
    own = {"passed": True, "data_set": {"games": 9, "fault_share": 0.25}, "overlap": {}, "findings": []}
    write_json(tmp_path / "reports/on_policy/round1/result.json", own)
    shutil.copytree(tmp_path / "data/dataset", tmp_path / "data/on_policy/round1")
    variant = params.tuning.variants["refinement"].model_copy(update={"data_set": "data/on_policy/round1"})
    tuning = params.tuning.model_copy(update={"variants": {**params.tuning.variants, "refinement": variant}})
    corrected = params.model_copy(update={"tuning": tuning})
    run_id = tuned(corrected, tmp_path, "d1")
    profile = json.loads(client.get_run(run_id).inputs.dataset_inputs[0].dataset.profile)
    assert (profile["quality_gate"], profile["error_turn_ratio"]) == ("passed", 0.25)


def test_missing_figures_of_tuning_name_the_stage_that_writes_them(params: Params) -> None:
    with refused("stage_not_run", file=Path("reports/tuning/refinement/metrics.json"), stage="tuning@refinement"):
        contents.log_tuning("refinement", "no run", params)


def test_no_secret_is_kept(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(params.teacher.api_key_env, "sk-test-SECRET")
    teacher = params.teacher.model_copy(update={"base_url": "https://me:pass-SECRET@host/v1?key=query-SECRET"})
    secretive = params.model_copy(update={"teacher": teacher})
    run_id = tuned(secretive, tmp_path, "d1")
    evaluated(secretive, tmp_path, "refinement", "d1", 3)
    contents.log_base(run_id, secretive)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in written)
    assert [path for path in written if b"SECRET" in path.read_bytes()] == []
    kept = Path(MlflowClient(params.tracking.uri).download_artifacts(run_id, "params.yaml", str(tmp_path)))
    assert yaml.safe_load(kept.read_text())["teacher"]["base_url"] == "https://host/v1"


@pytest.mark.parametrize("kind", ["nobody listens", "unknown scheme", "no database", "file store"])
def test_store_that_cannot_be_used_is_one_sentence(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    (tmp_path / "broken.db").write_text("this is no database" * 100)
    uri = {
        "nobody listens": f"http://me:SECRET@127.0.0.1:{closed}",
        "unknown scheme": "carrier-pigeon://loft",
        "no database": f"sqlite:///{tmp_path}/broken.db",
        "file store": f"file:{tmp_path}/mlruns",
    }[kind]
    broken = params.tracking.model_copy(update={"uri": uri})
    with refused("store_unusable", key="tracking.uri") as caught:
        runs.model_run("base", "d0", params.model_copy(update={"tracking": broken}))
    assert "SECRET" not in str(caught.value)
