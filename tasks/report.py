"""The report and the registry as tasks."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.report.document import headline
from agentrefine.report.document import write_report as write_files
from agentrefine.report.figures import comparison_metrics
from agentrefine.report.inputs import Project, Results
from agentrefine.report.viewer import write_viewers
from tasks import evaluation, registry, tracking, tuning

VERSION = "1"
REPORTS = Path("reports")


@task(name="report", version=VERSION)
def write_report(params: Params) -> Results:
    """Write the report and the episode viewers from what the stages left, and keep the report as an artifact.

    Raises:
        UserError: a stage has not been run.
    """
    results = write_files(params)
    write_viewers(params)
    create_markdown_artifact((REPORTS / "report.md").read_text(encoding="utf-8"), key="report")
    return results


@task(name="registry", version=VERSION)
def register_models(params: Params, results: Results) -> None:
    """Log how every evaluated tuned model compares, and enter it in the registry; comparisons decide on the champion.

    Each run has the differences with their intervals as metrics `<benchmark>/against_<other>/...`, the main finding as
    its description, and the baseline and its run as tags.

    Raises:
        UserError: a tracking store that cannot be used.
    """
    from agentrefine.tuning.models import model_digest  # imports torch and transformers

    project = Project()
    baseline = params.baseline
    baseline_run = tracking.run_for(baseline, evaluation.model_identity(baseline, params), params.tracking)
    for model in params.evaluation.models:
        if model == BASE:
            continue
        digest = model_digest(Path("models") / model)
        run_id = tracking.run_for(model, digest, params.tracking)
        # A tracking store that is newer than the models holds an empty run.
        if not tracking.holds(run_id, tracking.MODEL, params.tracking):
            tuning.log_results(model, run_id, params)
        if not tracking.holds(run_id, tracking.EVALUATION, params.tracking):
            evaluation.log_results(model, run_id, params)
        compared = {
            f"{found.benchmark}/against_{found.b}/{name}": value
            for found in results.comparisons
            if found.a == model
            for name, value in comparison_metrics(found).items()
        }
        tracking.log_metrics(run_id, params.tracking, compared)
        tags = {} if model == baseline else {"compared_with": baseline, "compared_with_run": baseline_run}
        tracking.describe(run_id, params.tracking, " ".join(headline(params, results)), tags)
        tracking.log_plots(run_id, params.tracking, sorted((REPORTS / "plots").glob("*.png")))
        standing = registry.register(
            model, digest, run_id, params,
            episodes=project.evaluation(model) / "episodes.jsonl",
            baseline_episodes=project.evaluation(baseline) / "episodes.jsonl",
        )  # fmt: skip
        get_run_logger().info("%s is version %s, %s", model, standing.version, standing.alias)
