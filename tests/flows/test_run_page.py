"""What Prefect's pages show of runs, on a real server: names, tags, artifacts; and the report's images in a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from agentrefine.files import write_json
from agentrefine.game.counts import SynthesisCounts
from agentrefine.params import Params
from agentrefine.params.teacher import RoleParams
from agentrefine.synthesis.forecast import Expected, Forecast
from flows.command import stage_flow
from tasks.tracking.artifacts import show_cost, show_forecast
from tasks.tracking.flow_runs import MAX_NAME, describe_pipeline, pipeline_name
from tasks.tracking.progress import progress
from tasks.tracking.report_page import with_images
from tasks.tracking.settings import teacher_labels
from tests.helpers.chromium import chromium
from tests.helpers.paths import ROOT
from tests.helpers.prefect_server import prefect_api

STAGES = ["synthesis", "tuning@refinement", "evaluation@refinement", "report"]
CALLS = {
    "calls": 12, "unanswered": 1, "calls_with_estimated_tokens": 0,
    "prompt_tokens": 3400, "cached_tokens": 0, "completion_tokens": 560, "cost_usd": 1.25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("pending", "overrides", "name"),
    [
        (STAGES, {}, "all 4 stages"),
        (STAGES[1:], {}, "tuning refinement, evaluation refinement, report"),
        ([], {}, "nothing to run"),
        (STAGES, {"tuning.learning_rate": 0.001, "seed": 8}, "tuning.learning_rate=0.001, seed=8"),
    ],
)
def test_a_run_of_the_pipeline_is_named_by_what_is_special_about_it(pending, overrides, name) -> None:
    assert pipeline_name(pending, len(STAGES), overrides) == name


def test_the_teachers_of_all_roles_are_named_and_the_simulated_one_as_documents_name_it() -> None:
    repair = RoleParams(base_url="https://host/v1", model="gpt-4o", api_key_env="KEY")
    teacher = Params().teacher.model_copy(update={"repair": repair})
    assert teacher_labels(Params()) == ["simulated teacher"]
    assert teacher_labels(Params().model_copy(update={"teacher": teacher})) == ["gpt-4o", "simulated teacher"]


def test_a_long_name_is_cut() -> None:
    name = pipeline_name([f"tuning@variant_{number}" for number in range(40)], 99, {})
    assert len(name) <= MAX_NAME
    assert name.endswith(" ...")


@pytest.fixture
def server() -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect_api()}):
        yield


def kept(run: UUID) -> tuple[FlowRun, list[Artifact]]:
    """A flow run and its artifacts, as the server keeps them."""
    own = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    with get_client(sync_client=True) as client:
        return client.read_flow_run(run), client.read_artifacts(artifact_filter=own)


@pytest.mark.slow
def test_the_list_of_runs_shows_name_and_tags(server: None) -> None:
    @flow(flow_run_name="pipeline")
    def pipeline() -> None:
        describe_pipeline(Params(), STAGES[1:], len(STAGES), {})

    run, _ = kept(pipeline(return_state=True).state_details.flow_run_id)
    assert run.name == "tuning refinement, evaluation refinement, report"
    assert run.tags == ["base:tiny", "teacher:simulated teacher"]


@pytest.mark.slow
def test_a_stage_is_tagged_with_what_it_is_about_and_has_one_progress(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(params: Params) -> None:
        for benchmark in ("babyai", "pddl"):
            with progress(f"base {benchmark}", 50, "episode", bar=False) as bar:
                bar.advance(50)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    run, artifacts = kept(stage_flow("forecast", work)(return_state=True).state_details.flow_run_id)
    assert run.tags == ["base:tiny", "stage:forecast", "teacher:simulated teacher"]
    (only,) = artifacts
    assert (only.key, only.data, only.description) == ("progress", 100.0, "base pddl: 50 episodes")


@pytest.mark.slow
def test_forecast_and_cost_are_described_tables(server: None, tmp_path: Path) -> None:
    counts = SynthesisCounts.model_validate({**CALLS, "personas": 2, "samples": 4, "scripts": 8, "trajectories": 4})
    write_json(tmp_path / "synthesis" / "metrics.json", counts.model_dump())
    total = Expected(10.0, 8.0, 12.5)

    @flow
    def stage() -> None:
        show_forecast(Forecast(8, 498, total, total, total, total, total, "about 2 hours"))
        show_cost(tmp_path)

    _, artifacts = kept(stage(return_state=True).state_details.flow_run_id)
    found = {artifact.key: artifact for artifact in artifacts}
    assert set(found) == {"forecast", "cost"}
    assert "498 personas" in (found["forecast"].description or "")
    assert "$12.50" in str(found["forecast"].data)
    assert (found["cost"].description or "").endswith("$1.25")
    assert "3,400" in str(found["cost"].data)


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[str]:
    """A Prefect server with its pages; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": f"{address}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{address}/api/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_browser_shows_the_images_of_the_report(pages: str, tmp_path: Path) -> None:
    from prefect.artifacts import create_markdown_artifact

    (tmp_path / "plots").mkdir()
    for name in ("success", "loss"):
        shutil.copyfile(ROOT / "docs/viewer.png", tmp_path / f"plots/{name}.png")
    page = "# Report\n\n![Success rates](plots/success.png)\n\n![Loss](plots/loss.png)\n"
    with chromium(tmp_path / "profile") as browser:
        with temporary_settings({PREFECT_API_URL: f"{pages}/api"}):
            artifact = flow(
                lambda: create_markdown_artifact(with_images(page, tmp_path), key="report"), name="report"
            )()
        browser.call("Page.navigate", url=f"{pages}/artifacts/artifact/{artifact}")
        browser.wait_for("document.images.length === 2 && [...document.images].every((i) => i.naturalWidth > 100)")
        assert browser.texts("h1") == ["Report"]
