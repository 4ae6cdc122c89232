"""Thresholds of params.yaml as expectations of Great Expectations, and its verdict on tables of features.

Great Expectations takes four seconds to import, so it is imported where tables are judged.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from agentrefine.errors import UserError
from agentrefine.files import write_json, write_text
from agentrefine.params.base import Section
from agentrefine.params.quality_gate import Band, MostlyBand, Requirement
from agentrefine.quality.diversity import FeatureExample
from agentrefine.quality.gate_result import (
    EXAMPLES,
    BenchmarkOverlap,
    Finding,
    GateResult,
    short_number,
    summary,
    table,
)

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations import expectations as gxe
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context import EphemeralDataContext


class Scope(NamedTuple):
    """One table and what is expected of its columns; examples of single columns, where the rows are none."""

    name: Literal["trajectory", "data_set", "on_policy"]
    table: "pd.DataFrame"
    thresholds: Section
    examples: Mapping[str, Sequence[FeatureExample]]


def judge(
    scopes: Sequence[Scope],
    reports: Path,
    *,
    data_set: Mapping[str, float],
    overlap: Mapping[str, BenchmarkOverlap],
    refusal: str,
    **details: object,
) -> GateResult:
    """Judge features, in tables that are not empty; write `result.json` and `summary.md` into `reports` in any case.

    Args:
        scopes: the tables with their thresholds.
        reports: the folder of the verdict.
        data_set: the features of the whole data set.
        overlap: what the data set shares with each benchmark, by its name.
        refusal: what is refused and what to do about it, as the beginning of a sentence.
        details: of the error.

    Raises:
        UserError: a critical expectation failed; its message has a table of all that failed.
    """
    findings = check(scopes)
    passed = all(finding.success or finding.severity == "warning" for finding in findings)
    result = GateResult(passed=passed, data_set=dict(data_set), overlap=dict(overlap), findings=findings)
    write_json(reports / "result.json", result.model_dump())
    write_text(reports / "summary.md", summary(result))
    if not passed:
        message = f"{refusal} ({reports / 'summary.md'} says more).\n\n{table(result.failures)}"
        raise UserError("gate_failed", message, failures=len(result.failures), **details)
    return result


def check(scopes: Sequence[Scope]) -> list[Finding]:
    """Judge features, in tables that are not empty, by thresholds."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")  # writes nothing anywhere
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    results = [_validate(context, scope) for scope in scopes]
    return [
        _finding(scope, column, threshold, result[column])
        for scope, result in zip(scopes, results, strict=True)
        for column, threshold in scope.thresholds
    ]


def _validate(context: "EphemeralDataContext", scope: Scope) -> "dict[str, ExpectationValidationResult]":
    """Great Expectations' result of each column of a scope."""
    import great_expectations as gx

    expectations = [_expectation(column, threshold) for column, threshold in scope.thresholds]
    suite = context.suites.add(gx.ExpectationSuite(name=scope.name, expectations=expectations))
    asset = context.data_sources.add_pandas(scope.name).add_dataframe_asset("features")
    definition = gx.ValidationDefinition(
        name=scope.name, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite
    )
    index = {"unexpected_index_column_names": ["id"]} if scope.name == "trajectory" else {}
    validation = context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": scope.table},
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES, **index},
    )
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
    whole = scope.name != "trajectory"
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
        observed=short_number(scope.table[column].iloc[0]) if whole else f"{failed} of {total} failed",
        share=None if whole else round((found.result.get("unexpected_percent") or 0.0) / 100, 6),
        example_ids=[example.trajectory_id for example in examples],
        example_values=[example.text for example in examples],
    )


def _expected(column: str, threshold: Requirement | Band) -> str:
    """A threshold in words."""
    if isinstance(threshold, Band):
        ends = ("at least", threshold.min), ("at most", threshold.max)
        words = " and ".join(f"{word} {short_number(end)}" for word, end in ends if end is not None)
    else:
        words = {"id": "unique", "completed": "true"}.get(column, "none")
    mostly = threshold.mostly if isinstance(threshold, Requirement | MostlyBand) else 1.0
    return words if mostly == 1 else f"{words}, for at least {short_number(100 * mostly)}%"


def _value(value: object) -> str:
    return short_number(value) if isinstance(value, float) else str(value)


def feature_table(record: type[Any], records: Sequence[Any]) -> "pd.DataFrame":
    """Records of a dataclass as a table with its fields as columns; whole numbers stay whole beside missing ones."""
    import pandas as pd

    names = [field.name for field in dataclasses.fields(record)]
    frame = pd.DataFrame({name: [getattr(r, name) for r in records] for name in names})
    return frame.astype({"tokens": "Int64"}) if "tokens" in names else frame
