"""What MLflow's pages say in words: descriptions of the experiment, of a pipeline, a model and an evaluation."""

from collections.abc import Iterable, Mapping, Sequence

from agentrefine.evaluation.metrics import BenchmarkSummary
from agentrefine.params import Params
from agentrefine.report.document import play_sentence
from agentrefine.report.figures import label
from agentrefine.report.inputs import Results, benchmarks
from agentrefine.report.tables import TEXTS, percent

REPORT = "report.html"
"""The artifact of a pipeline's run that holds the report."""

HOW_TO_COMPARE = (
    "**To compare models**: tick two of them in the list and press *Compare*; with *Show diff only*, parameters and "
    "tags are those that differ. *Artifacts*, `results.json` in a model's run is the table of all rates with their "
    "intervals; *Traces* are episodes to read. How to load a model: docs/mlflow.md."
)


MAX_NOTE = 5000
"""Most characters of an experiment's description, as MLflow takes it; a run's may have 8000."""


def model_note(
    finding: Sequence[str],
    summaries: Mapping[str, BenchmarkSummary],
    caveats: Iterable[str],
    report: str = "",
) -> str:
    """A model's run in words: the finding, what it reached, what to know of it, and where the report is."""
    rows = [
        f"| {label(name)} | {percent(found.success_rate, digits=0)} | {percent(found.progress_rate, digits=0)} | "
        f"{percent(found.recovery_rate, digits=0)} | {found.success_rate.n} |"
        for name, found in summaries.items()
    ]
    table = ["| percent [95% interval] | success | progress | recovery | n |", "|---|--:|--:|--:|--:|", *rows]
    rule = [TEXTS["rule"]] if finding else []
    parts = [_first_bold([*finding, *rule]), "\n".join(table), *_known(caveats), report]
    return "\n\n".join(part for part in parts if part)[:MAX_NOTE]


def evaluation_note(model: str, model_run: str, summaries: Mapping[str, BenchmarkSummary], params: Params) -> str:
    """An evaluation's run in words."""
    played = ", ".join(label(name) for name in summaries) or "no benchmark"
    return (
        f"How {label(model)} played {played}. {play_sentence(params.evaluation)} Its results are in the run of the "
        f"model, {model_run}; here are the settings, all episodes, and how busy the machine was."
    )


def results_note(finding: Sequence[str], results: Results, caveats: Iterable[str], end: str) -> str:
    """All models in words, for the experiment and the pipeline: the finding, success by benchmark and model."""
    names = benchmarks(results.models)
    head = ["| success in percent [95% interval] |", *(f" {label(name)} |" for name in names)]
    rows = [
        f"| {label(model)} | " + " | ".join(_success(summaries.get(name)) for name in names) + " |"
        for model, summaries in results.models.items()
    ]
    table = ["".join(head), "|---|" + "--:|" * len(names), *rows]
    parts = [_first_bold([*finding, TEXTS["rule"]]), "\n".join(table), *_known(caveats), end]
    return "\n\n".join(part for part in parts if part)[:MAX_NOTE]


def _success(summary: BenchmarkSummary | None) -> str:
    return "-" if summary is None else percent(summary.success_rate, digits=0)


def _first_bold(sentences: Sequence[str]) -> str:
    """The finding, its first sentence in bold."""
    return " ".join([f"**{sentence}**" if not number else sentence for number, sentence in enumerate(sentences)])


def _known(caveats: Iterable[str]) -> list[str]:
    lines = [f"- {caveat}" for caveat in caveats]
    return ["**What to know of these figures**\n\n" + "\n".join(lines)] if lines else []
