"""What the quality gate found, as records, and as a page and a table for people."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from jinja2 import StrictUndefined, Template
from pydantic import BaseModel

from agentrefine.files import packaged_text
from agentrefine.params.base import Severity

EXAMPLES = 10
"""How many trajectories a finding names."""

MAX_RULES = 3
"""How many of the most common rules a message names."""


class Finding(BaseModel, frozen=True):
    """One expectation and what was found.

    Example: `{"scope": "trajectory", "column": "tokens", "expectation": "expect_column_values_to_be_between",
    "severity": "critical", "success": true, "expected": "50 to 1280, ...", "observed": "0 of 512 failed", ...}`

    Attributes:
        scope: what was looked at: each trajectory, the data set as a whole, or a data set of corrected games.
        column: the feature (`FeatureRow` or `DataSetFeatures`).
        expectation: Great Expectations' name of the expectation.
        severity: what a failure does.
        success: whether the data met it.
        expected: the threshold in words.
        observed: what was found in words: a number, or how many trajectories failed.
        share: share of the trajectories with a value that failed it; None in the data set's scope.
        example_ids: trajectories that failed it, the first ones in file order; in the data set's scope trajectories
            that show what was found, where single ones can.
        example_values: their values, in the same order.
    """

    scope: Literal["trajectory", "data_set", "on_policy"]
    column: str
    expectation: str
    severity: Severity
    success: bool
    expected: str
    observed: str
    share: float | None
    example_ids: list[str]
    example_values: list[str]


class BenchmarkOverlap(BaseModel, frozen=True):
    """How much of a benchmark the training data repeats.

    Example: `{"ours": false, "missing": "", "episodes": 20, "ngrams": 4711, "ngrams_found": 0, "trajectories": 0}`

    Attributes:
        ours: its worlds share their texts with the training worlds by design; the figures are for information.
        missing: why it was not compared; empty when it was.
        episodes: how many episodes the texts are of.
        ngrams: different n-grams looked for.
        ngrams_found: of these, how many stand in the training data.
        trajectories: how many repeat an n-gram, a whole goal or a whole solution.
    """

    ours: bool
    missing: str
    episodes: int
    ngrams: int
    ngrams_found: int
    trajectories: int


class GateResult(BaseModel, frozen=True):
    """result.json: what the gate found.

    Example: `{"passed": true, "data_set": {"trajectories": 512, ...}, "overlap": {"babyai": {...}}, "findings": [...]}`

    Attributes:
        passed: no critical expectation failed.
        data_set: the features of the whole data set (`DataSetFeatures`).
        overlap: what the trajectories share with each benchmark, by its name.
        findings: every expectation, met or not, in the order of params.yaml.
    """

    passed: bool
    data_set: dict[str, float]
    overlap: dict[str, BenchmarkOverlap]
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
    examples = [f"\n          e.g. {_examples(f, 3)}" if f.example_ids else "" for f in failures]
    return "\n".join(line + example for line, example in zip(lines, ["", *examples], strict=True))


def summary(result: GateResult) -> str:
    """The result as a Markdown page that reads well as plain text and without a network."""
    text = packaged_text("agentrefine.quality", "summary.md.jinja")
    template = Template(text, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    page: str = template.render(
        result=result, number=short_number, examples=lambda finding: _examples(finding, EXAMPLES)
    )
    return page


def nothing_to_judge(trajectories: Path, dropped: Path, rules: Iterable[str]) -> str:
    """Why there is no trajectory and what to do about it, in one sentence.

    Args:
        trajectories: the file that holds none.
        dropped: the file of the dropped samples.
        rules: the rule that each dropped sample broke.
    """
    counts = Counter(rules)
    if not counts:
        return (
            f"{trajectories}: no trajectory and no dropped sample ({dropped}), so there is nothing to judge; run the "
            "stages synthesis, verification and repair on at least one persona."
        )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_RULES]
    most = ", ".join(f"{rule} ({count})" for rule, count in ordered)
    return (
        f"{trajectories}: no trajectory to judge, as all {counts.total()} samples were dropped, most often by {most}; "
        f"read the messages in {dropped}, then change teacher.model, repair.call_budget or the section "
        "verification in params.yaml, or the prompts in agentrefine/synthesis/prompts, and run synthesis again."
    )


def short_number(value: float) -> str:
    """A number as people write it: at most four digits after the point."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _examples(finding: Finding, most: int) -> str:
    pairs = zip(finding.example_ids, finding.example_values, strict=True)
    return ", ".join(f"{trajectory_id} ({value})" for trajectory_id, value in list(pairs)[:most])
