"""MLflow, against a real store: one run per model, found again; the alias moves by comparison; no secret is kept."""

import json
import math
import shutil
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from agentrefine.params import Params
from agentrefine.report.inputs import Project
from agentrefine.tuning.results import ValidationPoint
from tasks.tracking import registry, runs
from tasks.tracking.registry import Registration
from tests.helpers.errors import refused
from tests.helpers.results_tree import episodes, params_for, step, write_evaluation, write_model, write_tuning

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


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once because that takes seconds."""
    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{store}").search_experiments()
    return store


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Params:
    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts under the working folder
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "data" / "dataset").mkdir(parents=True)
    (tmp_path / "data" / "dataset" / "train.jsonl").write_text('{"id": "a"}\n')
    return params_for(tmp_path)


@pytest.fixture
def client(params: Params) -> MlflowClient:
    return MlflowClient(params.tracking.uri)


def tuned(params: Params, root: Path, digest: str, weights: bytes = b"w") -> str:
    """What the tuning stage does."""
    shutil.rmtree(root / "models", ignore_errors=True)
    write_model(root / "models/refinement", weights)
    write_tuning(root / "reports/tuning/refinement", "refinement")
    run_id = runs.run_for("refinement", digest, params.tracking)
    runs.log_tuning("refinement", run_id, params)
    return run_id


def evaluated(params: Params, root: Path, model: str, digest: str, solved: int) -> Path:
    """What the evaluation stage does; returns the episodes' file."""
    folder = write_evaluation(root / digest, model, episodes(model, solved))
    runs.log_evaluation(model, runs.run_for(model, digest, params.tracking), params, Project(root / digest))
    return folder / "episodes.jsonl"


def registered(params: Params, root: Path, digest: str, solved: int, baseline: int = 1) -> Registration:
    """Tune, evaluate and register one model that solves so many of 20 episodes; plain expert tuning solves 1."""
    run_id = tuned(params, root, digest, weights=digest.encode())
    plain = evaluated(params, root, "expert_only", f"plain{baseline}", baseline)
    played = evaluated(params, root, "refinement", digest, solved)
    return registry.register("refinement", digest, run_id, params, episodes=played, baseline_episodes=plain)


def models_of(client: MlflowClient) -> list[str]:
    experiment = client.get_experiment_by_name("agentrefine")
    return [run.data.tags["model"] for run in client.search_runs([experiment.experiment_id])]


def test_evaluation_finds_the_run_that_tuning_made(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    run_id = tuned(params, tmp_path, "d1")
    evaluated(params, tmp_path, "refinement", "d1", 13)
    evaluated(params, tmp_path, "base", "d0", 1)
    run = client.get_run(run_id)
    assert run.data.params["tuning.learning_rate"] == str(params.tuning.learning_rate)
    assert run.data.metrics["tuning/trained_token_share"] == 0.31
    assert run.data.metrics["worlds_layouts/success_rate"] == 0.65
    assert run.data.metrics["worlds_layouts/success_rate_low"] == pytest.approx(0.433, abs=1e-3)
    assert run.data.metrics["worlds_layouts/success_rate_n"] == 20
    assert run.data.tags["evaluation.max_steps"] == str(params.evaluation.max_steps)
    assert run.info.status == "FINISHED"
    assert sorted(models_of(client)) == ["base", "refinement"]
    kept = {file.path for folder in ("model", "evaluation") for file in client.list_artifacts(run_id, folder)}
    assert kept >= {
        "model/model.safetensors", "evaluation/episodes.jsonl", "evaluation/details.json", "evaluation/sample.md"
    }  # fmt: skip
    progress = client.get_metric_history(run_id, "worlds_layouts/progress_by_step")
    assert [(metric.step, metric.value) for metric in progress] == [(0, 0), (1, 0.325), (2, 0.65)]


def test_a_shorter_evaluation_overwrites_the_whole_curve(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    run_id = tuned(params, tmp_path, "d1")
    for values in ([0.2, 0.4, 0.6], [0.1]):
        (played,) = episodes("refinement", 0, of=1, benchmark="babyai")
        steps = [step("fly", valid=True, progress=value) for value in values]
        shown = played.model_copy(update={"steps": steps, "progress": values[-1]})
        write_evaluation(tmp_path, "refinement", [shown])
        runs.log_evaluation("refinement", run_id, params)
    latest = {metric.step: metric.value for metric in client.get_metric_history(run_id, "babyai/progress_by_step")}
    assert latest == {0: 0.0, 1: 0.1, 2: 0.1, 3: 0.1}
    assert client.get_run(run_id).data.metrics["babyai/progress_by_step"] == 0.1


def test_rerun_updates_its_run_and_a_new_model_opens_another(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    first = tuned(params, tmp_path, "d1")
    evaluated(params, tmp_path, "refinement", "d1", 13)
    changed = params.evaluation.model_copy(update={"max_steps": 7})
    evaluated(params.model_copy(update={"evaluation": changed}), tmp_path, "refinement", "d1", 2)
    assert tuned(params, tmp_path, "d1") == first
    run = client.get_run(first)
    assert run.data.metrics["worlds_layouts/success_rate"] == 0.1
    assert run.data.tags["evaluation.max_steps"] == "7"
    assert len(client.get_metric_history(first, "tuning/loss")) == 30
    assert tuned(params, tmp_path, "d2") != first
    assert len(models_of(client)) == 2


def test_changed_settings_that_give_equal_bytes_do_not_break_the_run(params: Params, tmp_path: Path) -> None:
    first = tuned(params, tmp_path, "d1")
    slower = params.model_copy(update={"teacher": params.teacher.model_copy(update={"concurrency": 1})})
    assert tuned(slower, tmp_path, "d1") == first


def test_data_set_is_an_input_with_the_hash_that_dvc_keeps(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "dvc.lock").write_text(LOCK)
    run = client.get_run(tuned(params, tmp_path, "d1"))
    data_set = run.inputs.dataset_inputs[0].dataset
    assert data_set.name == "data/dataset/train.jsonl"
    assert data_set.digest == "0123456789abcdef0123456789abcdef.dir"
    assert len(json.loads(data_set.profile)["sha256"]) == 64


def test_live_curve_continues_in_the_finished_run(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    curve = [ValidationPoint(step=step, tokens=1024 * step, loss=3.0 / step) for step in range(1, 4)]
    with runs.live_run("refinement", params.tracking) as live:
        runs.log_points(live, params.tracking, curve, runs.LOSS)
        assert client.get_run(live).info.status == "RUNNING"
    assert runs.adopt(live, "refinement", "d1", params.tracking) == live
    assert tuned(params, tmp_path, "d1") == live
    assert [metric.step for metric in client.get_metric_history(live, "tuning/loss")] == list(range(1, 31))


def test_live_run_with_bytes_that_are_known_gives_way_to_the_earlier_run(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    first = tuned(params, tmp_path, "d1")
    with runs.live_run("refinement", params.tracking) as live:
        pass
    assert runs.adopt(live, "refinement", "d1", params.tracking) == first
    assert len(models_of(client)) == 1


def test_missing_figures_of_tuning_name_the_stage_that_writes_them(params: Params) -> None:
    with refused("stage_not_run", file=Path("reports/tuning/refinement/metrics.json"), stage="tuning@refinement"):
        runs.log_tuning("refinement", "no run", params)


def test_failed_tuning_leaves_a_failed_run(params: Params, client: MlflowClient) -> None:
    with pytest.raises(ZeroDivisionError), runs.live_run("refinement", params.tracking) as live:
        _ = 1 / 0
    assert client.get_run(live).info.status == "FAILED"


def test_failed_tuning_tells_its_own_reason_when_the_store_is_lost_too(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise OSError("the store is gone")

    monkeypatch.setattr(MlflowClient, "set_terminated", lost)
    with pytest.raises(ZeroDivisionError), runs.live_run("refinement", params.tracking):
        _ = 1 / 0


def test_first_champion_must_beat_the_baseline(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    weak = registered(params, tmp_path, "d1", solved=2)
    assert (weak.version, weak.alias, list(weak.comparisons)) == ("1", "challenger", ["expert_only"])
    assert "champion" not in client.get_registered_model("agentrefine-agent").aliases
    strong = registered(params, tmp_path, "d2", solved=12)
    assert (strong.version, strong.alias, list(strong.comparisons)) == ("2", "champion", ["expert_only"])
    assert client.get_registered_model("agentrefine-agent").aliases == {"challenger": 1, "champion": 2}
    tags = client.get_model_version("agentrefine-agent", "2").tags
    assert tags["compared_with"] == "expert_only"
    assert tags["verdict"].startswith("expert_only: better (0.55 [")


@pytest.mark.parametrize("solved", [12, 13, 3])
def test_a_model_that_is_not_better_than_plain_expert_tuning_is_no_champion(
    params: Params, client: MlflowClient, tmp_path: Path, solved: int
) -> None:
    assert registered(params, tmp_path, "d1", solved=solved, baseline=12).alias == "challenger"
    assert "champion" not in client.get_registered_model("agentrefine-agent").aliases


def test_a_model_better_than_the_champion_must_also_beat_the_baseline(params: Params, tmp_path: Path) -> None:
    registered(params, tmp_path, "d1", solved=8)
    found = registered(params, tmp_path, "d2", solved=18, baseline=17)
    assert found.alias == "challenger"
    verdicts = {name: comparison.verdict for name, comparison in found.comparisons.items() if comparison}
    assert verdicts == {"expert_only": "too few episodes differ", "version 1": "better"}


def test_the_baseline_has_an_alias_of_its_own(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    played = evaluated(params, tmp_path, "expert_only", "plain", 12)
    run_id = tuned(params, tmp_path, "plain")
    for _ in range(2):
        found = registry.register("expert_only", "plain", run_id, params, episodes=played, baseline_episodes=played)
        assert found == Registration("1", "baseline", {})
    other = params.model_copy(update={"report": params.report.model_copy(update={"baseline": "base"})})
    base = evaluated(params, tmp_path, "base", "base0", 1)
    registry.register("expert_only", "plain", run_id, other, episodes=played, baseline_episodes=base)
    assert list(client.get_registered_model("agentrefine-agent").aliases) == ["champion"]


def test_champion_is_replaced_only_by_a_model_that_is_better_beyond_the_interval(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    registered(params, tmp_path, "d1", solved=8)
    close = registered(params, tmp_path, "d2", solved=9)
    assert (close.alias, list(close.comparisons)) == ("challenger", ["expert_only", "version 1"])
    with_champion = close.comparisons["version 1"]
    assert with_champion is not None
    assert (with_champion.only_a, with_champion.only_b) == (1, 0)
    better = registered(params, tmp_path, "d3", solved=18)
    assert (better.alias, list(better.comparisons)) == ("champion", ["expert_only", "version 1"])
    aliases = client.get_registered_model("agentrefine-agent").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"champion": 3, "challenger": 2}


def test_challenger_that_becomes_champion_is_no_longer_challenger(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    registered(params, tmp_path, "d1", solved=2)
    assert registered(params, tmp_path, "d1", solved=15).alias == "champion"
    assert list(client.get_registered_model("agentrefine-agent").aliases) == ["champion"]


def test_registering_twice_makes_one_version(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    first, second = (registered(params, tmp_path, "d1", solved=12) for _ in range(2))
    assert (first.version, first.alias) == (second.version, second.alias) == ("1", "champion")
    assert second.comparisons == {}
    assert len(client.search_model_versions("name = 'agentrefine-agent'")) == 1


def test_champion_with_other_episodes_is_kept(params: Params, tmp_path: Path) -> None:
    registered(params, tmp_path, "d1", solved=12)
    other = params.model_copy(update={"report": params.report.model_copy(update={"champion_benchmark": "babyai"})})
    run_id = tuned(params, tmp_path, "d2", weights=b"d2")
    played = write_evaluation(tmp_path / "d2", "refinement", episodes("refinement", 20, benchmark="babyai"))
    registration = registry.register(
        "refinement", "d2", run_id, other,
        episodes=played / "episodes.jsonl", baseline_episodes=played / "episodes.jsonl",
    )  # fmt: skip
    assert (registration.alias, registration.comparisons["version 1"]) == ("challenger", None)


def test_champion_comes_back_byte_for_byte(params: Params, tmp_path: Path) -> None:
    registered(params, tmp_path, "d1", solved=12)
    client = MlflowClient(params.tracking.uri)
    version = client.get_model_version_by_alias("agentrefine-agent", "champion")
    folder = Path(client.download_artifacts(version.run_id, "model", str(tmp_path)))
    source = tmp_path / "models/refinement"
    names = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    assert len(names) == 2
    assert sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) == names
    assert all((folder / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_no_secret_is_kept(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(params.teacher.api_key_env, "sk-test-SECRET")
    teacher = params.teacher.model_copy(update={"base_url": "https://me:pass-SECRET@host/v1?key=query-SECRET"})
    secretive = params.model_copy(update={"teacher": teacher})
    run_id = tuned(secretive, tmp_path, "d1")
    evaluated(secretive, tmp_path, "refinement", "d1", 3)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in written)
    assert [path for path in written if b"SECRET" in path.read_bytes()] == []
    logged = MlflowClient(params.tracking.uri).get_run(run_id).data.params
    assert logged["teacher.base_url"] == "https://host/v1"
    assert logged["teacher.api_key_env"] == params.teacher.api_key_env


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
        runs.run_for("base", "d0", broken)
    assert "SECRET" not in str(caught.value)


def test_a_run_is_described_by_the_finding_and_names_what_it_was_compared_with(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    run_id = tuned(params, tmp_path, "d1")
    text, tags = "Refinement tuning is better.", {"compared_with": "expert_only"}
    runs.log_comparison(run_id, params.tracking, metrics={"worlds/against_base": 0.5}, text=text, tags=tags)
    assert client.get_run(run_id).data.metrics["worlds/against_base"] == 0.5
    tags = client.get_run(run_id).data.tags
    assert (tags["mlflow.note.content"], tags["compared_with"]) == ("Refinement tuning is better.", "expert_only")


def test_a_run_shows_its_last_evaluation_only(params: Params, client: MlflowClient, tmp_path: Path) -> None:
    run_id = tuned(params, tmp_path, "d1")
    for solved, benchmarks in ((2, ("babyai", "pddl")), (4, ("pddl",))):
        played = [played for name in benchmarks for played in episodes("refinement", solved, benchmark=name)]
        write_evaluation(tmp_path, "refinement", played)
        runs.log_evaluation("refinement", run_id, params)
    found = client.get_run(run_id).data.metrics
    assert found["pddl/success_rate"] == 0.2
    assert math.isnan(found["babyai/success_rate"])
    assert found["tuning/trained_token_share"] == 0.31
