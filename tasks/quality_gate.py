"""The quality gate: Great Expectations judges the trajectories, and the data set is written if they pass."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from prefect import get_run_logger, task

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, read_jsonl
from agentrefine.game.trajectory import DroppedSample, Trajectory
from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.quality.data_set import DATA_SET, remove_data_set, validation_personas, write_data_set
from agentrefine.quality.diversity import Diversity
from agentrefine.quality.features import DataSetFeatures, FeatureRow, data_set_features, feature_rows
from agentrefine.quality.gate_result import GateResult, nothing_to_judge
from agentrefine.quality.overlap import HeldOut, OverlapCounts, all_benchmark_texts, held_out
from tasks.expectations import Scope, feature_table, judge
from tasks.tracking.artifacts import show_gate

TRAJECTORIES = Path("data/repair/trajectories.jsonl")
DROPPED = Path("data/repair/dropped.jsonl")
REPORTS = Path("reports/quality_gate")


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
    get_run_logger().info("The data set passed; %s has every expectation", REPORTS / "summary.md")
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

    The feature table (`features.csv`), `result.json` and `summary.md` are written into `reports` in any case. A data
    set of an earlier run in `out` is removed first, so that a refused one leaves nothing to be tuned on; so are its
    verdicts. `count_tokens` is by the tokenizer of the model that is tuned; the data must not contain `texts`.

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
        rules = Counter(sample.rule for sample in samples_dropped)
        sentence = nothing_to_judge(trajectories, dropped, rules.elements())
        raise UserError("nothing_to_judge", sentence, file=trajectories, dropped=len(samples_dropped), rules=rules)
    whole = data_set_features(rows, samples_dropped, diversity)
    per_trajectory = feature_table(FeatureRow, rows)
    with atomic_write(reports / "features.csv") as handle:
        per_trajectory.to_csv(handle, index=False)
    scopes = (
        Scope("trajectory", per_trajectory, gate.thresholds.trajectory, {}),
        Scope("data_set", feature_table(DataSetFeatures, [whole]), gate.thresholds.data_set, diversity.examples()),
    )
    result = judge(
        scopes,
        reports,
        data_set=dataclasses.asdict(whole),
        overlap=overlaps.by_benchmark(),
        refusal=f"The quality gate refused {trajectories}: no data set was written; fix the data or change "
        "quality_gate.thresholds in params.yaml",
        file=trajectories,
    )
    validation = validation_personas((row.persona_id for row in rows), gate.validation_share, params.seed)
    write_data_set(read_jsonl(trajectories, Trajectory), validation, out)
    return result
