"""The registered model: a version per tuned model, and aliases that move by comparison only.

A version says which comparison decided on its alias, on which benchmark, and how to load it.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import Comparison, compare
from agentrefine.files import read_jsonl
from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.report.figures import label
from agentrefine.report.tables import percent
from tasks.tracking.agent import MODEL, needed_base
from tasks.tracking.runs import current_evaluation
from tasks.tracking.settings import evaluation_settings, model_label
from tasks.tracking.store import quotable, store

CHAMPION, CHALLENGER, BASELINE = "champion", "challenger", "baseline"

DECIDED = ("benchmark", "compared_with", "verdict")
"""Tags of a version: the comparison that decided on its alias."""


class Registration(NamedTuple):
    """Where a model stands in the registry.

    Attributes:
        version: its version of the registered model.
        alias: `champion`, `challenger`, or `baseline` for the model that the others are compared with.
        comparisons: the paired comparisons that decided, by what it was compared with (`expert_only`, `version 3`);
            None where there is no episode that both have played. Empty for the baseline and for a known champion.
    """

    version: str
    alias: str
    comparisons: dict[str, Comparison | None]


def register(
    model: str, digest: str, run_id: str, params: Params, *, episodes: Path, baseline_episodes: Path
) -> Registration:
    """Enter a tuned model in the registry and decide its alias.

    `champion` moves to the model only when the paired comparisons on `report.champion_benchmark` say that it is better
    than the baseline (`Params.baseline`) and than the present champion, if there is one, beyond the interval of the
    difference; otherwise it is `challenger`. One of several seeds does not become champion: the best of many models
    looks better than it is. A digest is entered once, however often this is called.

    Raises:
        UserError: the tracking store cannot be reached or used, or episodes are missing.
    """
    name = params.tracking.registered_model
    benchmark = params.report.champion_benchmark
    variant = params.tuning.variants.get(model)
    one_of_several = variant is not None and variant.seed is not None
    with store(params.tracking) as client:
        version = _version(client, name, model, digest, run_id)
        if model == params.baseline:
            _move_alias(client, name, version, BASELINE)
            for key in DECIDED:
                if key in version.tags:
                    client.delete_model_version_tag(name, version.version, key)
            _describe(client, version, params, model, f"It is the {BASELINE}, with which the others are compared.")
            return Registration(str(version.version), BASELINE, {})
        champion = _champion(client, name)
        if champion is not None and str(champion.version) == str(version.version):
            return Registration(str(version.version), CHAMPION, {})
        rivals = {params.baseline: _of_benchmark(baseline_episodes, benchmark)}
        if champion is not None:
            rivals[f"version {champion.version}"] = _stored_episodes(client, champion, benchmark, params)
        own = _of_benchmark(episodes, benchmark)
        comparisons = {rival: _compare_common(own, played) for rival, played in rivals.items()}
        better = all(found is not None and found.verdict == "better" for found in comparisons.values())
        alias = CHAMPION if better and not one_of_several else CHALLENGER
        _move_alias(client, name, version, alias)
        verdicts = "; ".join(f"{rival}: {_verdict(found)}" for rival, found in comparisons.items())
        for key, value in zip(DECIDED, (benchmark, ", ".join(comparisons), verdicts), strict=True):
            client.set_model_version_tag(name, version.version, key, value)
        decided = f"It is the {alias} by comparison on {label(benchmark)}. Against {verdicts}."
        _describe(client, version, params, model, decided)
        return Registration(str(version.version), alias, comparisons)


def _describe(client: MlflowClient, version: ModelVersion, params: Params, model: str, decided: str) -> None:
    loads = (
        f'`mlflow.pyfunc.load_model("models:/{version.name}/{version.version}")` loads it where agentrefine is '
        "installed (docs/mlflow.md)."
    )
    needed = needed_base(Path("models", model), Path("models", BASE))
    text = f"{model_label(params, model)}. {decided}\n\n{loads} {needed}".rstrip()
    client.update_model_version(version.name, version.version, text)


def _version(client: MlflowClient, name: str, model: str, digest: str, run_id: str) -> ModelVersion:
    if not client.search_registered_models(f"name = '{quotable(name)}'"):
        client.create_registered_model(name, description="Agents by refinement tuning; `champion` moves by comparison.")
    wanted = f"name = '{quotable(name)}' and tags.model_digest = '{quotable(digest)}'"
    known = client.search_model_versions(wanted, order_by=["version_number ASC"], max_results=1)
    if known:
        return known[0]
    tags = {"model": model, "model_digest": digest}
    # A source in the run's artifacts: MLflow finds there how to load it.
    return client.create_model_version(name, source=f"runs:/{run_id}/{MODEL}", run_id=run_id, tags=tags)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    aliases = client.get_registered_model(name).aliases
    return client.get_model_version(name, aliases[CHAMPION]) if CHAMPION in aliases else None


def _move_alias(client: MlflowClient, name: str, version: ModelVersion, alias: str) -> None:
    """Give a version an alias; it is no longer baseline or challenger under another one."""
    client.set_registered_model_alias(name, alias, version.version)
    for other, number in client.get_registered_model(name).aliases.items():
        if other in (BASELINE, CHALLENGER) and other != alias and str(number) == str(version.version):
            client.delete_registered_model_alias(name, other)


def _stored_episodes(client: MlflowClient, version: ModelVersion, benchmark: str, params: Params) -> list[Episode]:
    """What a version has played on a benchmark with the step and token limits of today."""
    evaluation = current_evaluation(client, version.run_id)
    now = evaluation_settings(params)
    limits = ("evaluation.max_steps", "evaluation.max_new_tokens")
    if evaluation is None or any(evaluation.data.params[name] != now[name] for name in limits):
        return []
    with tempfile.TemporaryDirectory() as folder:
        fetched = client.download_artifacts(evaluation.info.run_id, "episodes.jsonl", folder)
        return _of_benchmark(Path(fetched), benchmark)


def _of_benchmark(episodes: Path, benchmark: str) -> list[Episode]:
    return [episode for episode in read_jsonl(episodes, Episode) if episode.benchmark == benchmark]


def _compare_common(new: list[Episode], rival: list[Episode]) -> Comparison | None:
    """The comparison on what both have played: a champion may have been evaluated on fewer episodes, or on others."""
    common = {episode.id for episode in new} & {episode.id for episode in rival}
    if not common:
        return None
    return compare([e for e in new if e.id in common], [e for e in rival if e.id in common])


def _verdict(comparison: Comparison | None) -> str:
    if comparison is None:
        return "they have played no episode in common under the same limits"
    points = percent(comparison.success_difference, sign="+", digits=0)
    return f"{comparison.verdict} ({points} points, {comparison.success_difference.n} episodes; {comparison.reason})"
