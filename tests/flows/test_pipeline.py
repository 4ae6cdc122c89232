"""The pipeline as a user runs it: real DVC, a real Prefect server and worker, a real SQLite MLflow."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from mlflow import MlflowClient

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics.comparison import Verdict
from tests.helpers.project import ProjectCopy, digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = {
    "params", "synthesis", "verification", "repair", "base_model", "quality_gate",
    "tuning@expert_only", "tuning@refinement", "reference_evaluation@chance",
    "evaluation@base", "evaluation@expert_only", "evaluation@refinement", "report",
}  # fmt: skip
MODELS = ("chance", "base", "expert_only", "refinement")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """A project that the pipeline has been run in once."""
    copy = ProjectCopy.make(tmp_path_factory.mktemp("project"), own_server=True)
    done = copy.stage("pipeline")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (copy.folder / "first_run.txt").write_text(done.stdout)
    return copy


def test_a_run_leaves_the_report_and_ends_with_its_table(project: ProjectCopy) -> None:
    printed = (project.folder / "first_run.txt").read_text()
    report = (project.folder / "reports/report.md").read_text()
    for benchmark in ("worlds layouts", "worlds families", "worlds perturbed", "babyai"):
        assert benchmark in report
        assert benchmark in printed
    assert "agentrefine serve" in printed
    details = json.loads((project.folder / "data/evaluation/refinement/details.json").read_text())
    assert details["worlds_layouts"]["success_rate"]["n"] == 3
    title = report.splitlines()[0]
    assert title.startswith("# Refinement tuning: ")
    assert title.endswith(" on unseen layouts, no clear difference")
    assert title.removeprefix("# ") in " ".join(printed.split())
    costs = report.partition("## Costs, tokens and hours")[2].partition("\n## ")[0]
    assert "unknown" not in costs
    for stage in ("synthesis", "verification", "repair", "base model", "quality gate", "tuning, refinement"):
        assert re.search(rf"^\| {stage} \|.*\| \d+:\d\d:\d\d \|$", costs, re.MULTILINE)


def test_all_models_play_the_same_episodes_and_chance_does_what_is_possible(project: ProjectCopy) -> None:
    played = {}
    for model in MODELS:
        lines = (project.folder / f"data/evaluation/{model}/episodes.jsonl").read_text().splitlines()
        played[model] = [Episode.model_validate_json(line) for line in lines]
    assert len({tuple(episode.id for episode in episodes) for episodes in played.values()}) == 1
    assert all(step.valid for episode in played["chance"] for step in episode.steps)
    assert {episode.model for episode in played["chance"]} == {"chance"}
    files = [f"data/evaluation/{model}/metrics.json" for model in MODELS]
    shown = project.run("dvc", "metrics", "show", *files, "--md").stdout
    assert [shown.index(file) for file in files]
    assert "worlds_layouts" in shown


def test_the_variants_see_the_same_games_in_as_many_steps(project: ProjectCopy) -> None:
    tuned = {
        variant: json.loads((project.folder / f"reports/tuning/{variant}/metrics.json").read_text())
        for variant in ("expert_only", "refinement")
    }
    plain, refined = tuned["expert_only"], tuned["refinement"]
    assert plain["rendering"]["samples"] == refined["rendering"]["samples"]
    assert plain["steps"] == refined["steps"]
    assert plain["tokens"] < refined["tokens"]


def test_mlflow_has_the_pipeline_its_models_and_their_evaluations_with_true_durations(project: ProjectCopy) -> None:
    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("agentrefine")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {
        "pipeline / tiny / seed 7", "chance / seed 7",
        *(f"{model} / tiny / seed 7" for model in MODELS[1:]), *(f"{model} / evaluation" for model in MODELS),
    }  # fmt: skip
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    refined, plain = runs["refinement / tiny / seed 7"], runs["expert_only / tiny / seed 7"]
    assert refined.data.tags["compared_with"] == "expert_only"
    assert refined.data.tags["compared_with_run"] == plain.info.run_id
    assert refined.data.tags["verdict"].split(" on worlds layouts: ")[0] in get_args(Verdict)
    assert refined.data.tags["mlflow.note.content"].startswith(f"**{refined.data.tags['verdict']}")
    assert set(refined.data.params) == set(runs["base / tiny / seed 7"].data.params)
    shown = {name for name in refined.data.metrics if not name.startswith("system/")}
    assert {"success/worlds_layouts", "tuning/gradient_norm", "tuning/tokens_per_second"} <= shown
    assert len(shown) < 20
    whole = runs["pipeline / tiny / seed 7"].info
    for run in runs.values():
        assert whole.start_time <= run.info.start_time < run.info.end_time <= whole.end_time
    artifacts = {file.path for file in client.list_artifacts(whole.run_id)}
    assert {"report.html", "plots", "params.yaml"} == artifacts
    assert {"model", "viewer", "model_card.md", "params.yaml", "results.json"} == {
        file.path for file in client.list_artifacts(refined.info.run_id)
    }
    finding = client.get_experiment(experiment.experiment_id).tags["mlflow.note.content"]
    assert finding.startswith("**Refinement tuning")
    assert client.get_registered_model("agentrefine-agent").aliases == {"baseline": 1, "challenger": 2}


def test_dvc_has_nothing_to_do_after_a_run(project: ProjectCopy) -> None:
    assert set(project.lock()) == STAGES
    assert project.changed_stages() == set()
    repro = project.run("dvc", "repro")
    assert "up to date" in repro.stdout + repro.stderr


def test_a_second_run_starts_nothing(project: ProjectCopy) -> None:
    before = (project.folder / "dvc.lock").read_bytes()
    done = project.stage("pipeline")
    assert done.returncode == 0, done.stderr
    assert "nothing to run" in done.stdout
    assert "Flow run" not in done.stderr
    assert "worlds layouts" in done.stdout
    assert (project.folder / "dvc.lock").read_bytes() == before


def test_every_sample_is_kept_or_dropped(project: ProjectCopy) -> None:
    data = project.folder / "data"
    samples = json.loads((data / "synthesis/metrics.json").read_text())["samples"]
    refined = json.loads((data / "repair/metrics.json").read_text())
    kept = (data / "repair/trajectories.jsonl").read_text().splitlines()
    dropped = (data / "repair/dropped.jsonl").read_text().splitlines()
    assert (len(kept), len(dropped)) == (refined["kept"], refined["dropped"])
    assert refined["kept"] + refined["dropped"] == samples
    assert sum(refined["dropped_by_rule"].values()) == refined["dropped"]


def test_a_new_learning_rate_concerns_tuning_evaluation_and_report_only(project: ProjectCopy) -> None:
    params = project.folder / "params.yaml"
    before = params.read_bytes()
    try:
        project.set_params(**{"tuning.learning_rate": 0.0017})
        assert project.changed_stages() == {"params"}
        assert project.run("dvc", "repro", "params").returncode == 0
        assert project.changed_stages() == {"tuning@expert_only", "tuning@refinement"}
        would_run = project.run("dvc", "repro", "--dry", "--force-downstream").stdout
        ran = set(re.findall(r"Running stage '([^']+)'", would_run))
        assert {"tuning@refinement", "evaluation@refinement", "report"} <= ran
        assert not ran & {
            "synthesis", "verification", "repair", "base_model", "quality_gate", "evaluation@base",
            "reference_evaluation@chance",
        }  # fmt: skip
    finally:
        params.write_bytes(before)
        assert project.run("dvc", "repro", "params").returncode == 0


def test_a_changed_rule_concerns_everything_from_verification(project: ProjectCopy) -> None:
    rules = project.folder / "agentrefine/verification/trajectory_rules.py"
    before = rules.read_text()
    try:
        rules.write_text(before.replace("The game ends after turn", "The game stops after turn"))
        assert rules.read_text() != before
        assert {"verification", "repair"} <= project.changed_stages()
        assert "synthesis" not in project.changed_stages()
        assert project.stage("verification").returncode == 0
        changed = project.run("dvc", "status", "--json", "repair").stdout
        assert "verdicts.jsonl" in changed
    finally:
        rules.write_text(before)
        assert project.stage("verification").returncode == 0
    assert project.changed_stages() == set()


def test_two_runs_with_one_seed_give_the_same_bytes(project: ProjectCopy, tmp_path: Path) -> None:
    again = ProjectCopy.make(tmp_path / "again")
    done = again.stage("pipeline")
    assert done.returncode == 0, done.stderr[-3000:]
    assert digests(again.folder / "data/dataset") == digests(project.folder / "data/dataset")
    assert digests(again.folder / "models") == digests(project.folder / "models")
    for model in MODELS:
        for file in ("metrics.json", "details.json", "episodes.jsonl"):
            name = f"data/evaluation/{model}/{file}"
            assert (again.folder / name).read_bytes() == (project.folder / name).read_bytes()


def test_an_experiment_shows_up_in_metrics_and_plots_diff(project: ProjectCopy) -> None:
    project.commit("results")
    done = project.run("dvc", "exp", "run", "-S", "evaluation.max_steps=2")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    metrics = project.run("dvc", "metrics", "diff", "--all", "--md").stdout
    assert re.search(r"reports/metrics.json +\| success\.refinement", metrics), metrics
    plots = project.run("dvc", "plots", "diff")
    assert plots.returncode == 0, plots.stderr
    page = (project.folder / "dvc_plots/index.html").read_text()
    assert "static/workspace_reports_plots_success.png" in page
    assert "static/HEAD_reports_plots_success.png" in page


@pytest.fixture
def served(project: ProjectCopy) -> Iterator[str]:
    """Prefect server, worker and MLflow of the project; the address of Prefect's API."""
    prefect_port, mlflow_port = _free_port(), _free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "flows.cli", "serve"),
            *("--prefect-port", str(prefect_port), "--mlflow-port", str(mlflow_port)),
        ],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = [process.stdout.readline() for _ in range(4)]
    assert f"127.0.0.1:{prefect_port}" in printed[0], printed
    assert f"127.0.0.1:{mlflow_port}/#/experiments/1/runs?viewStateShareKey=results" in printed[1], printed
    yield f"http://127.0.0.1:{prefect_port}/api"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", prefect_port)) != 0, "the server outlived its parent"


def test_the_deployment_runs_the_same_stages_with_overrides_for_one_run(project: ProjectCopy, served: str) -> None:
    params = (project.folder / "params.yaml").read_bytes()
    project.environment["PREFECT_API_URL"] = served
    try:
        overrides = json.dumps({"overrides": {"evaluation.max_steps": 4}})
        done = project.run("prefect", "deployment", "run", "agentrefine/local", "--params", overrides, "--watch")
        assert done.returncode == 0, done.stdout
        assert "Completed" in done.stdout
        lock = project.lock()
        assert "max_steps: 4" in json.dumps(lock["evaluation@base"]).replace('"', "")
        assert (project.folder / "params.yaml").read_bytes() == params
        done = project.run("prefect", "deployment", "run", "agentrefine/local", "--watch")
        assert "Completed" in done.stdout, done.stdout
        assert project.changed_stages() == set()
        wrong = json.dumps({"overrides": {"evaluation.max_step": 4}})
        done = project.run("prefect", "deployment", "run", "agentrefine/local", "--params", wrong, "--watch")
        assert done.returncode == 1
        log = (project.folder / ".prefect/logs/prefect-worker.log").read_text()
        assert log.count("did you mean evaluation.max_steps") == 1
        assert "Traceback" not in log
        assert {"evaluation.max_steps=4", "evaluation.max_step=4"} <= set(names_of_runs(served))
    finally:
        del project.environment["PREFECT_API_URL"]


def names_of_runs(api: str) -> list[str]:
    """The names of the flow runs of a server."""
    request = urllib.request.Request(f"{api}/flow_runs/filter", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [run["name"] for run in json.load(answer)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
