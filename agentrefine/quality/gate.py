"""What the quality gate found: typed, and rendered for people."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agentrefine.params import Severity

EXAMPLES = 10
"""How many failing trajectories a finding names."""


class Finding(BaseModel):
    """One expectation and what was found.

    Attributes:
        scope: whether each trajectory or the data set as a whole was looked at.
        column: the feature (`FeatureRow` or `DataSetFeatures`).
        expectation: Great Expectations' name of the expectation.
        severity: what a failure does.
        success: whether the data met it.
        expected: the threshold in words.
        observed: what was found in words: a number, or how many trajectories failed.
        share: share of the trajectories with a value that failed it; None in the data set's scope.
        example_ids: trajectories that failed it, the first ones in file order.
        example_values: their values, in the same order.
    """

    model_config = ConfigDict(frozen=True)

    scope: Literal["trajectory", "data_set"]
    column: str
    expectation: str
    severity: Severity
    success: bool
    expected: str
    observed: str
    share: float | None
    example_ids: list[str]
    example_values: list[str]


class GateResult(BaseModel):
    """The gate's result.

    Attributes:
        passed: no critical expectation failed.
        data_set: the features of the whole data set (`DataSetFeatures`).
        findings: every expectation, met or not, in the order of params.yaml.
    """

    model_config = ConfigDict(frozen=True)

    passed: bool
    data_set: dict[str, float]
    findings: list[Finding]

    @property
    def failures(self) -> list[Finding]:
        """The expectations that were not met, critical ones first."""
        failed = [finding for finding in self.findings if not finding.success]
        return sorted(failed, key=lambda finding: finding.severity)


def table(failures: Sequence[Finding]) -> str:
    """Failures as aligned plain text, one a line, with the ids of failing trajectories beneath."""
    head = ("severity", "scope", "feature", "expected", "observed")
    cells = [head, *((f.severity, f.scope, f.column, f.expected, f.observed) for f in failures)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    described = [lines[0]]
    for line, finding in zip(lines[1:], failures, strict=True):
        described.append(line)
        if finding.example_ids:
            described.append(f"          e.g. {_examples(finding, 3)}")
    return "\n".join(described)


def summary(result: GateResult) -> str:
    """The result as a Markdown page that reads well as plain text and without a network."""
    verdict = "The data set passed." if result.passed else "The data set was **refused**: nothing was written."
    lines = [
        "# Quality gate",
        "",
        f"{verdict} Expectations met: {sum(f.success for f in result.findings)} of {len(result.findings)}.",
        "",
        "| scope | feature | expected | observed | severity | met |",
        "|---|---|---|---|---|---|",
    ]
    for f in result.findings:
        met = "yes" if f.success else "**no**"
        lines.append(f"| {f.scope} | {f.column} | {f.expected} | {f.observed} | {f.severity} | {met} |")
    named = [f"- {f.column} ({f.severity}): {_examples(f, EXAMPLES)}" for f in result.failures if f.example_ids]
    if named:
        lines += ["", "## Failing trajectories", "", *named]
    lines += ["", "## The data set", "", "| feature | value |", "|---|---|"]
    lines += [f"| {name} | {number(value)} |" for name, value in result.data_set.items()]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """A number as people write it: at most four digits after the point."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _examples(finding: Finding, most: int) -> str:
    pairs = zip(finding.example_ids, finding.example_values, strict=True)
    return ", ".join(f"{trajectory_id} ({value})" for trajectory_id, value in list(pairs)[:most])
