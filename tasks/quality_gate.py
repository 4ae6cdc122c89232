"""The quality gate as a task."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.quality.benchmark_texts import all_benchmark_texts
from agentrefine.quality.overlap import held_out

VERSION = "2"
TRAJECTORIES = Path("data/refinement/trajectories.jsonl")
DROPPED = Path("data/refinement/dropped.jsonl")
DATA_SET = Path("data/dataset")
REPORTS = Path("reports/quality_gate")


@task(name="quality_gate", version=VERSION)
def gate(params: Params) -> None:
    """Judge the trajectories; write the data set only if nothing critical is wrong.

    Raises:
        UserError: the gate does not pass (a table of what failed, with example row ids), there is no trajectory at all,
            or a benchmark that is evaluated is not installed.
    """
    from agentrefine.tuning.models import load_tokenizer  # imports torch and transformers
    from tasks.expectations import run_gate  # imports Great Expectations

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
            held_out=held_out(all_benchmark_texts(params), params.quality_gate.overlap_words),
        )
    finally:
        if (REPORTS / "summary.md").is_file():
            create_markdown_artifact((REPORTS / "summary.md").read_text(encoding="utf-8"), key="quality-gate")
    for finding in result.failures:
        get_run_logger().warning("%s: expected %s, found %s", finding.column, finding.expected, finding.observed)
