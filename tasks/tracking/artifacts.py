"""What a reader finds in the Prefect UI of a data set: gate, forecast and cost, with stable keys, each described."""

from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from agentrefine.files import read_result
from agentrefine.game.counts import Calls, Cost, RepairCounts, SynthesisCounts
from agentrefine.llm.spending import dollars
from agentrefine.quality.gate_result import GateResult
from agentrefine.synthesis.forecast import Forecast


def show_gate(reports: Path) -> None:
    """Keep the quality gate's summary, if there is one: an earlier error leaves none."""
    page = reports / "summary.md"
    if not page.is_file():
        return
    result = read_result(reports / "result.json", GateResult, "quality_gate")
    warnings = sum(finding.severity == "warning" for finding in result.failures)
    critical = len(result.failures) - warnings
    verdict = "passed" if result.passed else "refused the data"
    create_markdown_artifact(
        page.read_text(encoding="utf-8"),
        key="quality-gate",
        description=f"The quality gate {verdict}: {len(result.findings)} expectations, {critical} critical failures, "
        f"{warnings} warnings",
    )


def show_forecast(found: Forecast) -> None:
    """Keep the forecast of a data set's cost."""
    cost = "unknown" if found.cost is None else dollars(found.cost.value)
    totals = {
        "trajectories kept": found.kept,
        "calls": found.calls,
        "prompt tokens": found.prompt_tokens,
        "completion tokens": found.completion_tokens,
    }
    rows = [(name, total.written()) for name, total in totals.items()]
    if found.cost is not None:
        rows.append(("cost", found.cost.written(dollars)))
    create_table_artifact(
        [{"total": name, "expected, with its 95% interval": text} for name, text in [*rows, ("time", found.time)]],
        key="forecast",
        description=f"All {found.personas:,} personas, forecast from a pilot of {found.pilot}; cost {cost}",
    )


def show_cost(data: Path) -> None:
    """Keep what the teacher's calls for the data set have cost, as far as its stages have run."""
    synthesis = read_result(data / "synthesis" / "metrics.json", SynthesisCounts, "synthesis")
    rows = [_cost_row("synthesis", synthesis)]
    whole: Cost = synthesis.cost_usd
    file = data / "repair" / "metrics.json"
    if file.is_file():
        repair = read_result(file, RepairCounts, "repair")
        rows += [_cost_row("repair", repair), _cost_row("together", repair.with_synthesis)]
        whole = repair.with_synthesis.cost_usd
    create_table_artifact(
        rows, key="cost", description=f"What the teacher's calls for the data set have cost: {_dollars(whole)}"
    )


def _cost_row(stage: str, calls: Calls) -> dict[str, str]:
    return {
        "stage": stage,
        "calls": f"{calls.calls:,}",
        "unanswered": f"{calls.unanswered:,}",
        "prompt tokens": f"{calls.prompt_tokens:,}",
        "completion tokens": f"{calls.completion_tokens:,}",
        "cost": _dollars(calls.cost_usd),
    }


def _dollars(cost: Cost) -> str:
    return cost if isinstance(cost, str) else dollars(cost)
