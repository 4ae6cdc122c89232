"""What the runs say of a comparison holds for the present baseline; what was said of an earlier one is gone."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from agentrefine.params import Params
from agentrefine.report.inputs import Project, load_results
from tasks.tracking import comparison, runs
from tests.helpers.results_tree import SOLVED, write_model, write_results


class NoLog:
    """Stands for the logger of a flow's run."""

    def info(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def results(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """What a run of all stages leaves: of 20 layouts expert_only solves 4, refinement 13."""
    shutil.rmtree(tmp_path / "reports", ignore_errors=True)
    write_results(tmp_path)
    (tmp_path / "reports/report.html").write_text("<h1>The report</h1>")
    for variant in params.tuning.variants:
        write_model(tmp_path / "models" / variant, variant.encode())
    monkeypatch.setattr(comparison, "model_card", lambda *_: "# A card")
    monkeypatch.setattr(comparison, "get_run_logger", NoLog)
    return params


def tags_with(baseline: str, params: Params, client: MlflowClient) -> dict[str, dict[str, str]]:
    """The tags of each model's run after a report with this baseline."""
    params = params.model_copy(update={"report": params.report.model_copy(update={"baseline": baseline})})
    comparison.register_models.fn(params, load_results(params, Project()), {model: model for model in SOLVED})
    return {model: client.get_run(runs.model_run(model, model, params)).data.tags for model in SOLVED}


def test_another_baseline_has_the_role_and_no_verdict_and_the_earlier_one_is_compared_with_it(
    results: Params, client: MlflowClient
) -> None:
    tags = tags_with("expert_only", results, client)
    assert (tags["expert_only"]["role"], tags["refinement"]["role"]) == ("baseline", "tuned")
    assert tags["refinement"]["verdict"].startswith("better on worlds layouts: +45 [")
    assert tags["refinement"]["compared_with"] == "expert_only"
    tags = tags_with("refinement", results, client)
    assert {model: found["role"] for model, found in tags.items()} == {
        "chance": "reference", "base": "base", "expert_only": "tuned", "refinement": "baseline",
    }  # fmt: skip
    assert tags["refinement"].keys() & {"verdict", "compared_with", "compared_with_run"} == set()
    assert tags["expert_only"]["verdict"].startswith("worse on worlds layouts: -45 [")
    assert tags["expert_only"]["compared_with"] == "refinement"


def test_a_model_that_is_not_compared_on_the_benchmark_that_decides_has_no_verdict(
    results: Params, client: MlflowClient
) -> None:
    tags_with("expert_only", results, client)
    other = results.report.model_copy(update={"champion_benchmark": "sciworld"})
    tags = tags_with("expert_only", results.model_copy(update={"report": other}), client)
    assert "verdict" not in tags["refinement"]
    assert tags["refinement"]["compared_with"] == "expert_only"
