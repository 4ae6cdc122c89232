"""MLflow in a real browser: the list, Compare and a run's page say which model is better, where, and if it is real."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from agentrefine.params import Params
from agentrefine.report.inputs import Project, load_results
from tasks.tracking import comparison, contents, runs
from tasks.tracking.run_list import run_list_address
from tests.helpers.chromium import chromium
from tests.helpers.mlflow_pages import MlflowPages, mlflow_server
from tests.helpers.results_tree import SOLVED, params_for, write_model, write_results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A store of what a run of all stages leaves: of 20 layouts the baseline solves 4, refinement 13."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = params_for(folder)
        write_results(folder)
        (folder / "data/dataset").mkdir(parents=True)
        (folder / "data/dataset/train.jsonl").write_text('{"id": "a"}\n')
        (folder / "reports/report.html").write_text("<h1>The report</h1>")
        patch.setattr(comparison, "model_card", lambda *_: "# A card")
        patch.setattr(comparison, "get_run_logger", lambda: NoLog())
        with runs.live_pipeline(params):
            for variant in params.tuning.variants:
                write_model(Path("models", variant), variant.encode())
                with runs.live_model(variant, params, variant) as live:
                    run_id = runs.adopt(live, variant, variant, params)
                contents.log_tuning(variant, run_id, params)
            digests = dict(zip(SOLVED, SOLVED, strict=True))
            comparison.register_models.fn(params, load_results(params, Project()), digests)
        yield params


class NoLog:
    """Stands for the logger of a flow's run."""

    def info(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def pages(logged: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowPages]:
    """A browser on a server of that store."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium is installed: install it to have MLflow's pages read")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = Path(logged.tracking.uri.removeprefix("sqlite:///")).parent
    with mlflow_server(folder, port) as server, chromium(tmp_path_factory.mktemp("profile")) as page:
        yield MlflowPages(page, server)


def test_the_list_shows_the_models_best_first_with_success_and_verdict(logged: Params, pages: MlflowPages) -> None:
    rows = pages.run_list(run_list_address(pages.server, logged.tracking))
    assert [row["attributes.`Run Name`"] for row in rows] == [
        "refinement / tiny / seed 7", "expert_only / tiny / seed 7", "chance / seed 7", "base / tiny / seed 7",
    ]  # fmt: skip
    assert [row["metrics.`success/worlds_layouts`"] for row in rows] == ["0.65", "0.2", "0.1", "0.05"]
    assert rows[0]["tags.`verdict`"].startswith("better on worlds layouts: +45 [")
    text = pages.text()
    assert "Refinement tuning is better than plain expert tuning on worlds layouts: 65% against 20%" in text


def test_compare_shows_success_side_by_side_without_gaps_and_what_the_models_differ_in(
    logged: Params, pages: MlflowPages
) -> None:
    pages.run_list(run_list_address(pages.server, logged.tracking))
    text = pages.compare_first_two()
    assert "Comparing 2 Runs from 1 Experiment" in text
    assert "refinement / tiny / seed 7" in text
    assert "train_on\tcorrect_turns\twithout_refinement_data" in text
    metrics = text[text.index("Metrics\n") : text.index("Artifacts\n")]
    assert "success/worlds_layouts" in metrics
    assert "NaN" not in metrics
    assert "against" not in metrics


def test_a_models_page_says_what_it_reached_what_it_was_tuned_on_and_how_it_compares(
    logged: Params, pages: MlflowPages
) -> None:
    client = MlflowClient(logged.tracking.uri)
    experiment = client.get_experiment_by_name(logged.tracking.experiment).experiment_id
    (run,) = client.search_runs([experiment], "tags.role = 'tuned'")
    text = pages.open(f"{pages.server}/#/experiments/{experiment}/runs/{run.info.run_id}", "About this run")
    for shown in (
        "better on worlds layouts: +45 [", "65 [43, 82]", "What to know of these figures", "pipeline / tiny / seed 7",
        "refinement / evaluation", "agentrefine tune refinement", "data/dataset/train.jsonl", "agentrefine-agent",
        "Tuning", "on worlds layouts",
    ):  # fmt: skip
        assert shown in text, shown
    assert "Metrics (10)" in text


def test_the_result_table_is_shown_as_a_table(logged: Params, pages: MlflowPages) -> None:
    client = MlflowClient(logged.tracking.uri)
    experiment = client.get_experiment_by_name(logged.tracking.experiment).experiment_id
    (run,) = client.search_runs([experiment], "tags.role = 'tuned'")
    address = f"{pages.server}/#/experiments/{experiment}/runs/{run.info.run_id}/artifacts/results.json"
    text = pages.open(address, "success rate")
    assert "View as table" in text
    assert "success minus that of expert only: better" in text
