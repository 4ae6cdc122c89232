"""What the quality gate found: typed, and rendered for people."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agentrefine.params.base import Severity

EXAMPLES = 10
"""The trajectories that a finding names."""

MAX_RULES = 3
"""The most common rules that a message names."""

OVERLAP_NOTE = (
    "Instructions, goals, observations and gold actions of each benchmark are looked for in every trajectory. What one "
    "shares with a foreign benchmark is its `held_out_overlap`. Our own worlds share families and wording with the "
    "training worlds by design: families, themes and seeds distinguish them, and their figures are for information."
)


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
        example_ids: trajectories that failed it, the first ones in file order; in the data set's scope trajectories
            that show what was found, where single ones can.
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


class BenchmarkOverlap(BaseModel):
    """How much of a benchmark the training data repeats.

    Attributes:
        ours: its worlds share their texts with the training worlds by design; the figures are for information.
        missing: why it was not compared; empty when it was.
        episodes: how many episodes the texts are of.
        ngrams: different n-grams looked for.
        ngrams_found: of these, how many stand in the training data.
        trajectories: how many repeat an n-gram, a whole goal or a whole solution.
    """

    model_config = ConfigDict(frozen=True)

    ours: bool
    missing: str
    episodes: int
    ngrams: int
    ngrams_found: int
    trajectories: int


class GateResult(BaseModel):
    """The gate's result.

    Attributes:
        passed: no critical expectation failed.
        data_set: the features of the whole data set (`DataSetFeatures`).
        overlap: what the trajectories share with each benchmark, by its name.
        findings: every expectation, met or not, in the order of params.yaml.
    """

    model_config = ConfigDict(frozen=True)

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
    named = [f for f in result.findings if f.example_ids]
    if named:
        lines += ["", "## Examples", ""]
    for f in named:
        met = "met" if f.success else "**not met**"
        lines.append(f"- {f.column} ({f.severity}, {met}): {_examples(f, EXAMPLES)}")
    lines += ["", *_overlap_section(result.overlap)]
    lines += ["", "## The data set", "", "| feature | value |", "|---|---|"]
    lines += [f"| {name} | {number(value)} |" for name, value in result.data_set.items()]
    return "\n".join(lines) + "\n"


def _overlap_section(overlap: Mapping[str, BenchmarkOverlap]) -> list[str]:
    """The overlap as Markdown lines: a table of the benchmarks that were compared, then those that were not."""
    lines = [
        "## Overlap with the benchmarks",
        "",
        OVERLAP_NOTE,
        "",
        "| benchmark | hits allowed | episodes | n-grams looked for | n-grams found | trajectories with a hit |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, o in overlap.items():
        if not o.missing:
            cells = (name, "yes" if o.ours else "no", o.episodes, o.ngrams, o.ngrams_found, o.trajectories)
            lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    missing = [f"- {name} was not compared: {o.missing}" for name, o in overlap.items() if o.missing]
    return [*lines, "", *missing] if missing else lines


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
            "stages synthesis, verification and refinement on at least one persona."
        )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_RULES]
    most = ", ".join(f"{rule} ({count})" for rule, count in ordered)
    return (
        f"{trajectories}: no trajectory to judge, as all {counts.total()} samples were dropped, most often by {most}; "
        f"read the messages in {dropped}, then change teacher.model, refinement.call_budget or the section "
        "verification in params.yaml, or the prompts in agentrefine/synthesis/prompts, and run synthesis again."
    )


def number(value: float) -> str:
    """A number as people write it: at most four digits after the point."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _examples(finding: Finding, most: int) -> str:
    pairs = zip(finding.example_ids, finding.example_values, strict=True)
    return ", ".join(f"{trajectory_id} ({value})" for trajectory_id, value in list(pairs)[:most])
