"""The quality gate: Great Expectations judges the trajectories, and the data set is written if they pass.

Great Expectations takes four seconds to import, so it is imported where the gate runs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefect import get_run_logger, task

from agentrefine.errors import UserError
from agentrefine.files import atomic_folder, atomic_write, read_jsonl, write_json, write_text
from agentrefine.game.trajectory import DroppedSample, Trajectory
from agentrefine.params import Params
from agentrefine.params.base import Section
from agentrefine.params.quality_gate import Band, MostlyBand, Requirement
from agentrefine.params.tuning import BASE
from agentrefine.quality.data_set import remove_data_set, validation_personas, write_data_set
from agentrefine.quality.diversity import Diversity, FeatureExample
from agentrefine.quality.features import DataSetFeatures, FeatureRow, data_set_features, feature_rows
from agentrefine.quality.gate_result import EXAMPLES, Finding, GateResult, nothing_to_judge, number, summary, table
from agentrefine.quality.overlap import HeldOut, OverlapCounts, all_benchmark_texts, held_out
from tasks.tracking.artifacts import show_gate

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations import expectations as gxe
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context import EphemeralDataContext

TRAJECTORIES = Path("data/refinement/trajectories.jsonl")
DROPPED = Path("data/refinement/dropped.jsonl")
DATA_SET = Path("data/dataset")
REPORTS = Path("reports/quality_gate")
SITE = "local"


class Scope(NamedTuple):
    """One table and what is expected of its columns; examples of single columns, where the rows are none."""

    name: Literal["trajectory", "data_set"]
    table: "pd.DataFrame"
    thresholds: Section
    examples: Mapping[str, Sequence[FeatureExample]]


@task(name="quality_gate")
def gate(params: Params) -> None:
    """Judge the trajectories; write the data set only if nothing critical is wrong.

    Raises:
        UserError: the gate does not pass (a table of what failed, with example row ids), there is no trajectory at all,
            or a benchmark that is evaluated is not installed.
    """
    from agentrefine.tuning.models import load_tokenizer  # imports torch and transformers

    own = params.quality_gate.tokenizer
    tokenizer = load_tokenizer(Path("models") / BASE if own == "base_model" else own)
    try:
        result = run_gate(
            TRAJECTORIES,
            DROPPED,
            DATA_SET,
            REPORTS,
            params,
            count_tokens=lambda text: len(tokenizer(text, add_special_tokens=False).input_ids),
            texts=held_out(all_benchmark_texts(params), params.quality_gate.overlap_words),
        )
    finally:
        show_gate(REPORTS)
    for finding in result.failures:
        get_run_logger().warning("%s: expected %s, found %s", finding.column, finding.expected, finding.observed)


def run_gate(
    trajectories: Path,
    dropped: Path,
    out: Path,
    reports: Path,
    params: Params,
    *,
    count_tokens: Callable[[str], int],
    texts: HeldOut,
) -> GateResult:
    """Judge the trajectories and write the data set if nothing critical is wrong with them.

    The feature table (`features.csv`), `result.json`, `summary.md` and `data_docs/` are written into `reports` in any
    case. A data set of an earlier run in `out` is removed first, so that a refused one leaves nothing to be tuned on;
    so are its verdicts. `count_tokens` is by the tokenizer of the model that is tuned; the data must not contain
    `texts`.

    Raises:
        UserError: a critical expectation failed (with a table of all that failed), there is no trajectory at all, a
            file is missing or broken, or the disk is full.
    """
    remove_data_set(out)
    for verdict in ("result.json", "summary.md"):
        (reports / verdict).unlink(missing_ok=True)
    gate = params.quality_gate
    diversity, overlaps = Diversity(gate.persona_similarity), OverlapCounts(texts.texts)
    rows = list(
        feature_rows(
            read_jsonl(trajectories, Trajectory),
            count_tokens=count_tokens,
            verification=params.verification,
            held_out=texts,
            near_duplicate_similarity=gate.near_duplicate_similarity,
            diversity=diversity,
            overlaps=overlaps,
        )
    )
    samples_dropped = list(read_jsonl(dropped, DroppedSample))
    if not rows:
        raise UserError(
            "nothing_to_judge",
            nothing_to_judge(trajectories, dropped, (sample.rule for sample in samples_dropped)),
            file=trajectories,
            dropped=len(samples_dropped),
        )
    whole = data_set_features(rows, samples_dropped, diversity)
    feature_table = _table(FeatureRow, rows)
    with atomic_write(reports / "features.csv") as handle:
        feature_table.to_csv(handle, index=False)
    scopes = (
        Scope("trajectory", feature_table, gate.thresholds.trajectory, {}),
        Scope("data_set", _table(DataSetFeatures, [whole]), gate.thresholds.data_set, diversity.examples()),
    )
    findings = check(scopes, reports / "data_docs")
    result = GateResult(
        passed=all(finding.success or finding.severity == "warning" for finding in findings),
        data_set=dataclasses.asdict(whole),
        overlap=overlaps.by_benchmark(),
        findings=findings,
    )
    write_json(reports / "result.json", result.model_dump())
    write_text(reports / "summary.md", summary(result))
    if not result.passed:
        message = (
            f"The quality gate refused {trajectories}: no data set was written; fix the data or change "
            f"quality_gate.thresholds in params.yaml ({reports / 'summary.md'} says more).\n\n{table(result.failures)}"
        )
        raise UserError("gate_failed", message, file=trajectories, failures=len(result.failures))
    validation = validation_personas((row.persona_id for row in rows), gate.validation_share, params.seed)
    write_data_set(read_jsonl(trajectories, Trajectory), validation, out)
    return result


def check(scopes: Sequence[Scope], data_docs: Path) -> list[Finding]:
    """Judge features, in tables that are not empty, by thresholds; the folder `data_docs` is replaced by new pages."""
    with atomic_folder(data_docs) as folder:
        context = _context(folder)
        results = [_validate(context, scope) for scope in scopes]
    return [
        _finding(scope, column, threshold, result[column])
        for scope, result in zip(scopes, results, strict=True)
        for column, threshold in scope.thresholds
    ]


def _context(data_docs: Path) -> "EphemeralDataContext":
    """A Great Expectations context in memory that writes its pages to a folder and nothing anywhere else."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(data_docs.resolve())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    context.add_data_docs_site(SITE, site)
    return context


def _validate(context: "EphemeralDataContext", scope: Scope) -> "dict[str, ExpectationValidationResult]":
    """Great Expectations' result of each column of a scope."""
    import great_expectations as gx
    from great_expectations.checkpoint import Checkpoint, UpdateDataDocsAction
    from great_expectations.core import RunIdentifier

    expectations = [_expectation(column, threshold) for column, threshold in scope.thresholds]
    suite = context.suites.add(gx.ExpectationSuite(name=scope.name, expectations=expectations))
    asset = context.data_sources.add_pandas(scope.name).add_dataframe_asset("features")
    definition = gx.ValidationDefinition(
        name=scope.name, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite
    )
    index = {"unexpected_index_column_names": ["id"]} if scope.name == "trajectory" else {}
    checkpoint = Checkpoint(
        name=scope.name,
        validation_definitions=[context.validation_definitions.add(definition)],
        actions=[UpdateDataDocsAction(name="data_docs", site_names=[SITE])],
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES, **index},
    )
    run = context.checkpoints.add(checkpoint).run(
        batch_parameters={"dataframe": scope.table}, run_id=RunIdentifier(run_name="quality_gate")
    )
    (validation,) = run.run_results.values()
    return {result.expectation_config.kwargs["column"]: result for result in validation.results}


def _expectation(column: str, threshold: Requirement | Band) -> "gxe.Expectation":
    """The expectation that a threshold stands for."""
    from great_expectations import expectations as gxe

    common: dict[str, Any] = {"column": column, "severity": threshold.severity}
    if isinstance(threshold, Requirement | MostlyBand):
        common["mostly"] = threshold.mostly
    if isinstance(threshold, Band):
        return gxe.ExpectColumnValuesToBeBetween(min_value=threshold.min, max_value=threshold.max, **common)
    if column == "id":
        return gxe.ExpectColumnValuesToBeUnique(**common)
    if column == "completed":
        return gxe.ExpectColumnValuesToBeInSet(value_set=[True], **common)
    return gxe.ExpectColumnValuesToBeNull(**common)


def _finding(scope: Scope, column: str, threshold: Requirement | Band, found: "ExpectationValidationResult") -> Finding:
    """What Great Expectations found of a column, in our terms.

    Raises:
        RuntimeError: Great Expectations could not evaluate the expectation.
    """
    if "element_count" not in found.result:
        raise RuntimeError(f"{scope.name}.{column} could not be judged: {found.exception_info}")
    failed, total = found.result["unexpected_count"], found.result["element_count"]
    whole = scope.name == "data_set"
    if whole:
        examples = list(scope.examples.get(column, []))
    else:
        unexpected = found.result.get("partial_unexpected_index_list") or []
        examples = [FeatureExample(str(row["id"]), _value(row[column])) for row in unexpected]
    return Finding(
        scope=scope.name,
        column=column,
        expectation=found.expectation_config.type,
        severity=threshold.severity,
        success=bool(found.success),
        expected=_expected(column, threshold),
        observed=number(scope.table[column].iloc[0]) if whole else f"{failed} of {total} failed",
        share=None if whole else round((found.result.get("unexpected_percent") or 0.0) / 100, 6),
        example_ids=[example.trajectory_id for example in examples],
        example_values=[example.text for example in examples],
    )


def _expected(column: str, threshold: Requirement | Band) -> str:
    """A threshold in words."""
    if isinstance(threshold, Band):
        ends = ("at least", threshold.min), ("at most", threshold.max)
        words = " and ".join(f"{word} {number(end)}" for word, end in ends if end is not None)
    else:
        words = {"id": "unique", "completed": "true"}.get(column, "none")
    mostly = threshold.mostly if isinstance(threshold, Requirement | MostlyBand) else 1.0
    return words if mostly == 1 else f"{words}, for at least {number(100 * mostly)}%"


def _value(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _table(record: type[Any], records: Sequence[Any]) -> "pd.DataFrame":
    """Records of a dataclass as a table with its fields as columns; whole numbers stay whole beside missing ones."""
    import pandas as pd

    names = [field.name for field in dataclasses.fields(record)]
    frame = pd.DataFrame({name: [getattr(r, name) for r in records] for name in names})
    return frame.astype({"tokens": "Int64"}) if "tokens" in names else frame
