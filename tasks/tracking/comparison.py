"""What MLflow says when all models are evaluated: who is better, where and by how much, in the place where it is read.

Each model's run has its differences in the result table, the finding in its description and its verdict as a tag; the
pipeline's run and the experiment have the finding about all of them, and the list of runs has the columns to see it.
"""

from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from prefect import get_run_logger, task

from agentrefine.evaluation.metrics import Comparison
from agentrefine.params import Params
from agentrefine.report.cards import model_card
from agentrefine.report.document import caveats, headline
from agentrefine.report.figures import label
from agentrefine.report.inputs import Project, Results, benchmarks
from agentrefine.report.tables import percent
from tasks.tracking import contents, runs
from tasks.tracking.agent import MODEL
from tasks.tracking.measures import HELDOUT_SUCCESS
from tasks.tracking.notes import HOW_TO_COMPARE, REPORT, model_note, results_note
from tasks.tracking.registry import CHAMPION, register
from tasks.tracking.run_list import save_view
from tasks.tracking.settings import resolved
from tasks.tracking.store import quotable, store

VIEWER, CARD = "viewer", "model_card.md"
"""Artifacts of a model's run: its episodes to browse, and what the hub would say of it."""

VERDICT, COMPARED_WITH, COMPARED_WITH_RUN = "verdict", "compared_with", "compared_with_run"
"""Tags of the comparison with the baseline; a model that is not compared with it any more has none of them."""


@task(name="registry")
def register_models(params: Params, results: Results, digests: Mapping[str, str]) -> None:
    """Log how the models compare, and enter the tuned ones in the registry; comparisons decide on the champion.

    `digests` identify all models that were evaluated.

    Raises:
        UserError: a tracking store that cannot be used.
    """
    found = {model: _complete(model, digest, params) for model, digest in digests.items()}
    with store(params.tracking) as client:
        pipeline = runs.pipeline_of(client, next(iter(found.values())))
    for model, run_id in found.items():
        _log_model_results(model, run_id, found[params.baseline], pipeline, params, results)
    for model, run_id in found.items():
        if model in params.tuning.variants:
            _register(model, digests[model], run_id, params)
    with store(params.tracking) as client:
        _mark_champion(client, params)
        _log_pipeline_results(client, pipeline, params, results)


def _complete(model: str, digest: str, params: Params) -> str:
    """The run of a model with all that it should hold: a store that is newer than the models holds an empty one."""
    run_id = runs.model_run(model, digest, params)
    if model in params.tuning.variants and not contents.holds(run_id, MODEL, params.tracking):
        contents.log_tuning(model, run_id, params)
    with store(params.tracking) as client:
        evaluated = runs.current_evaluation(client, run_id)
    if evaluated is None:
        with runs.live_evaluation(model, digest, params) as into:
            contents.log_evaluation(model, into, params)
    return run_id


def _log_model_results(
    model: str, run_id: str, baseline_run: str, pipeline: str, params: Params, results: Results
) -> None:
    """A model's comparisons, description, episodes and card."""
    project = Project()
    own = [comparison for comparison in results.comparisons if comparison.a == model]
    against_baseline = [comparison for comparison in own if comparison.b == params.baseline]
    decides = [c for c in against_baseline if c.benchmark == params.report.champion_benchmark]
    shown = [c for c in against_baseline if c.verdict in ("better", "worse") and c not in decides]
    finding = [_verdict(comparison) for comparison in (*decides, *shown)]
    if unclear := [label(c.benchmark) for c in against_baseline if c not in (*decides, *shown)]:
        finding.append(f"No difference is shown on {', '.join(unclear)}.")
    tags = {VERDICT: finding[0]} if decides else {}
    if model != params.baseline:
        tags |= {COMPARED_WITH: params.baseline, COMPARED_WITH_RUN: baseline_run}
    known = caveats(params, results.quantisation).values()
    where = (
        f"The report is `{REPORT}` in the run of the pipeline, {pipeline}; the episodes are `{VIEWER}/index.html` here."
    )
    note = model_note(finding, results.models[model], known, where)
    with store(params.tracking) as client:
        contents.log_table(client, run_id, results.models[model], results.seconds[model], own)
        runs.tag(client, run_id, {**tags, MLFLOW_RUN_NOTE: note})
        for name in {VERDICT, COMPARED_WITH, COMPARED_WITH_RUN} & client.get_run(run_id).data.tags.keys() - tags.keys():
            client.delete_tag(run_id, name)
        page = Path("reports/evaluation", model, "index.html")
        if page.is_file():
            client.log_artifact(run_id, str(page), VIEWER)
        if model in params.tuning.variants:
            client.log_text(run_id, model_card(model, params, project), CARD)


def _verdict(found: Comparison) -> str:
    """A comparison in a line: `better on babyai: +12 [+2, +24] points against expert only, p = 0.011.`"""
    points = percent(found.success_difference, sign="+", digits=0)
    difference = f"{points} points against {label(found.b)}, p = {found.p_value:.2g}"
    return f"{found.verdict} on {label(found.benchmark)}: {difference}."


def _register(model: str, digest: str, run_id: str, params: Params) -> None:
    project = Project()
    found = register(
        model, digest, run_id, params,
        episodes=project.evaluation(model) / "episodes.jsonl",
        baseline_episodes=project.evaluation(params.baseline) / "episodes.jsonl",
    )  # fmt: skip
    get_run_logger().info("%s is version %s, %s", model, found.version, found.alias)


def _mark_champion(client: MlflowClient, params: Params) -> None:
    """Let the tag `champion` stand at the run of the champion alone, with the benchmark that decided."""
    name = params.tracking.registered_model
    known = client.search_registered_models(f"name = '{quotable(name)}'")
    versions = [client.get_model_version_by_alias(name, CHAMPION)] if known and CHAMPION in known[0].aliases else []
    champions = {version.run_id: version.tags.get("benchmark", "") for version in versions}
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    for run in client.search_runs([experiment.experiment_id], f"tags.{CHAMPION} LIKE '%'"):
        if run.info.run_id not in champions:
            client.delete_tag(run.info.run_id, CHAMPION)
    for run_id, benchmark in champions.items():
        runs.tag(client, run_id, {CHAMPION: f"on {label(benchmark)}"})


def _log_pipeline_results(client: MlflowClient, pipeline: str, params: Params, results: Results) -> None:
    """The finding about all models, in the pipeline's run and the experiment, and the columns of the list."""
    experiment = client.get_experiment_by_name(params.tracking.experiment)
    text, known = headline(params, results), list(caveats(params, results.quantisation).values())
    report = f"The report is `{REPORT}` here; `plots` are its figures."
    runs.tag(client, pipeline, {MLFLOW_RUN_NOTE: results_note(text, results, known, report)})
    client.log_artifact(pipeline, str(Path("reports", REPORT)))
    for plot in sorted(Path("reports/plots").glob("*.png")):
        client.log_artifact(pipeline, str(plot), "plots")
    client.log_text(pipeline, resolved(params), contents.PARAMS)
    if client.get_run(pipeline).info.status != "RUNNING":  # its stages run one by one, and this is the last
        client.set_terminated(pipeline)
    client.set_experiment_tag(
        experiment.experiment_id, MLFLOW_RUN_NOTE, results_note(text, results, known, HOW_TO_COMPARE)
    )
    decides = params.report.champion_benchmark
    played = sorted(benchmarks(results.models), key=lambda name: name != decides)
    columns = [f"success/{name}" for name in played]
    save_view(client, experiment.experiment_id, [*columns[:1], HELDOUT_SUCCESS, *columns[1:]])
