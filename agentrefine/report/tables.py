"""The tables of the report: metrics as rows of text, in percent where they are shares."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict
from rich.table import Table

from agentrefine.evaluation.metrics import BenchmarkSummary, Comparison, Rate
from agentrefine.files import packaged_text
from agentrefine.params.evaluation import CHANCE
from agentrefine.report.figures import played
from agentrefine.report.inputs import Results
from agentrefine.report.plots import label

NOT_COMPARABLE = "not comparable"
"""The cell of a result that does not stand beside the published ones."""


class Score(NamedTuple):
    """Success and progress in percent."""

    success: float
    progress: float


class Published(BaseModel):
    """`published.yaml`.

    Attributes:
        source: where the figures are from.
        episodes: how many of each benchmark AgentBoard has.
        held_out: the benchmarks of the held-out score.
        models: what each model reached, by benchmark.
        held_in: the benchmarks whose environments a model was tuned on, by model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    episodes: dict[str, int]
    held_out: list[str]
    models: dict[str, dict[str, Score]]
    held_in: dict[str, list[str]]

    def held_out_score(self, scores: Mapping[str, Score]) -> Score | None:
        """The paper's held-out score: the mean of BabyAI, ScienceWorld, PDDL and Jericho, weighed by their episodes.

        None where one of them is missing.
        """
        if not all(name in scores for name in self.held_out):
            return None
        total = sum(self.episodes[name] for name in self.held_out)
        success, progress = (
            sum(self.episodes[name] * scores[name][part] for name in self.held_out) / total for part in (0, 1)
        )
        return Score(success, progress)


@cache
def published() -> Published:
    """The published results."""
    text = packaged_text("agentrefine.report", "published.yaml")
    return Published.model_validate(yaml.safe_load(text))


def comparable(summaries: Mapping[str, BenchmarkSummary], agentboard: Iterable[str]) -> dict[str, Score]:
    """What a model reached on the benchmarks of which it has played all of AgentBoard's episodes, each once."""
    own = set(agentboard)
    found = {}
    for name, number in published().episodes.items():
        summary = summaries.get(name)
        if name in own and summary is not None and summary.attempts == 1 and summary.episodes == number:
            success, progress = summary.success_rate.value, summary.progress_rate.value
            assert success is not None
            assert progress is not None
            found[name] = Score(100 * success, 100 * progress)
    return found


def why_not_comparable(name: str, summaries: Mapping[str, BenchmarkSummary], agentboard: Iterable[str]) -> str:
    """Why a model's result on a benchmark does not stand beside the published ones."""
    if name not in summaries:
        return "not played"
    if name not in set(agentboard):
        return "other episodes than AgentBoard's"
    if summaries[name].attempts > 1:
        return f"{summaries[name].attempts} attempts at each episode"
    return f"{summaries[name].episodes} of {published().episodes[name]} episodes"


COLUMNS = {
    "success_rate": ("success", "share of episodes that were fully solved."),
    "progress_rate": ("progress", "mean of the best share of sub-goals that an episode reached."),
    "grounding": ("grounding", "share of steps whose action was known, well-formed and possible."),
    "format_error_rate": ("format errors", "share of steps whose reply was not a thought and an action."),
    "stuck_rate": ("stuck", "share of episodes that repeat one failing action three times or more."),
    "recovery_rate": ("recovery", "share of errors after which the next action is valid and different."),
}
"""Rates by their names in `BenchmarkSummary`: heading and meaning."""

NARROW = {"grounding": "ground-\ning", "recovery": "recov-\nery", "format errors": "format\nerrors"}
"""Headings that the terminal's table breaks, so that it fits 80 columns."""

EFFORT_COLUMNS = ("steps", "prompt tokens", "completion tokens", "seconds")
THOUGHT_COLUMNS = ("thoughts", "distinct-1", "distinct-2", "distinct-3", "self-BLEU")
EFFORT_MEANINGS = (
    "steps, prompt tokens, completion tokens: mean of an episode.",
    "seconds: wall-clock time of the benchmark over its episodes, which are played side by side.",
    "thoughts: how many the next columns look at; of more thoughts a sample.",
    "distinct-n: different runs of n words over all of them.",
    "self-BLEU: how much of a thought stands in the other thoughts; 1 means that all are alike.",
)


def shown(results: Results) -> Iterator[tuple[str, str, BenchmarkSummary]]:
    """Benchmark, model and summary, without the benchmarks on which nobody is above chance."""
    return (found for found in played(results.models) if found[0] not in results.at_chance)


def terminal_table(results: Results) -> Table:
    """The result table for the terminal, in whole percent: a line per benchmark and model; success has its interval.

    The benchmarks on which nobody is above chance share the last line.
    """
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("benchmark", no_wrap=True)
    table.add_column("model")
    for heading, _ in COLUMNS.values():
        table.add_column(NARROW.get(heading, heading), justify="right")
    table.add_column("n", justify="right")
    previous = ""
    for benchmark, model, summary in shown(results):
        rates = summary.rates()
        success, *others = (percent(rates[name], digits=0) for name in COLUMNS)
        first = label(benchmark) if benchmark != previous else ""
        cells = (cell.partition(" ")[0] for cell in others)
        table.add_row(first, label(model), success, *cells, count(summary.episodes))
        previous = benchmark
    return table


def result_rows(results: Results, *, at_chance: bool = False) -> list[dict[str, Any]]:
    """The main table: a row per benchmark and model with `COLUMNS`, each with its interval.

    With `at_chance`, the same rows of the benchmarks on which nobody is above chance, which it leaves out.
    """
    return _grouped(
        (benchmark, model, [*(percent(summary.rates()[name]) for name in COLUMNS), count(summary.episodes)])
        for benchmark, model, summary in played(results.models)
        if (benchmark in results.at_chance) == at_chance
    )


def at_chance_line(results: Results) -> str:
    """The benchmarks on which nobody is above chance, in one line; empty where there are none."""
    names = ", ".join(label(name) for name in results.at_chance)
    return f"Nobody above chance: {names}." if names else ""


def effort_rows(results: Results) -> list[dict[str, Any]]:
    """What an episode cost, and how varied the thoughts are: a row per benchmark and model."""
    rows = []
    for benchmark, model, summary in shown(results):
        seconds = results.seconds[model].get(benchmark)
        thoughts = summary.thoughts
        cells = [
            number(summary.mean_steps),
            number(summary.mean_prompt_tokens, digits=0),
            number(summary.mean_completion_tokens, digits=0),
            _plain(seconds),
            count(thoughts.thoughts),
            *(_plain(share) for share in (thoughts.distinct_1, thoughts.distinct_2, thoughts.distinct_3)),
            number(thoughts.self_bleu, digits=2),
        ]
        rows.append((benchmark, model, cells))
    return _grouped(rows)


def wording_rows(results: Results) -> list[list[str]]:
    """Success and progress in each wording on the same worlds, and their mean and standard deviation."""
    rows = []
    for benchmark, model, summary in shown(results):
        found = summary.robustness
        if found is None:
            continue
        start = [label(benchmark), label(model)]
        for name, reached in found.perturbations.items():
            rows.append([*start, label(name), percent(reached.success_rate), percent(reached.progress_rate)])
        spread = [
            percent(rate) + ("" if std is None else f" ± {100 * std:.1f}")
            for rate, std in (
                (found.mean.success_rate, found.success_std),
                (found.mean.progress_rate, found.progress_std),
            )
        ]
        rows.append([*start, f"mean ± standard deviation, {found.worlds} worlds", *spread])
    return rows


def breakdown_rows(results: Results, kind: str) -> list[list[str]]:
    """Success and progress by `task` or `difficulty`: benchmark, group, model, success, progress, episodes."""
    rows = []
    for benchmark, model, summary in shown(results):
        groups = {"task": summary.by_task, "difficulty": summary.by_difficulty}[kind]
        for group, reached in groups.items():
            rates = [percent(reached.success_rate), percent(reached.progress_rate)]
            rows.append([label(benchmark), label(group) or "-", label(model), *rates, count(reached.success_rate.n)])
    return sorted(rows, key=lambda row: row[:2])


def notes(results: Results) -> list[str]:
    """What the main table does not show: failures of simulators, several attempts, what was not played and why."""
    failures = [
        sentence
        for benchmark, model, summary in played(results.models)
        for sentence in _notes(f"{label(benchmark)}, {label(model)}", summary)
    ]
    return [*failures, *(f"Not played: {reason}" for reason in dict.fromkeys(results.absent.values()))]


def _notes(of: str, summary: BenchmarkSummary) -> Iterator[str]:
    if summary.environment_errors:
        episodes = summary.episodes + summary.environment_errors
        failed = f"{summary.environment_errors} of {episodes}"
        yield f"{of}: the simulator failed in {failed} episodes, which are in no rate."
    if summary.success_at_n is not None:
        yield (
            f"{of}: {summary.attempts} attempts at each episode, of which n counts every one; "
            f"{percent(summary.success_at_n)}% of the episodes are solved by one of them at least."
        )


def verdicts(results: Results) -> list[str]:
    """The paired comparisons with the baseline and with the base in words, and who is above chance."""
    sentences = [
        verdict_sentence(found)
        for found in results.comparisons
        if found.b != CHANCE and found.benchmark not in results.at_chance
    ]
    above: dict[str, list[str]] = {}
    for found in results.against(CHANCE):
        if found.benchmark not in results.at_chance:
            above.setdefault(found.benchmark, []).extend([label(found.a)] if found.is_ahead else [])
    ahead = (f"{label(name)}: above chance: {', '.join(models) or 'nobody'}." for name, models in above.items())
    return [*sentences, *ahead]


def published_columns() -> list[str]:
    """The columns of `published_rows` behind the model's name."""
    return [*(label(name) for name in published().episodes), "held-out score"]


def published_rows(results: Results) -> list[list[str]]:
    """The paper's results and ours on AgentBoard's episodes, success / progress in percent, with the held-out score."""
    known = published()
    rows = []
    for model, scores in known.models.items():
        stars = known.held_in.get(model, [])
        cells = [_score(scores[name], starred=name in stars) for name in known.episodes]
        mixed = any(name in stars for name in known.held_out)
        rows.append([f"{model}, published", *cells, _score(known.held_out_score(scores), starred=mixed)])
    for model, summaries in results.models.items():
        scores = comparable(summaries, results.agentboard)
        cells = [_score(scores.get(name)) for name in known.episodes]
        rows.append([label(model), *cells, _score(known.held_out_score(scores))])
    return rows


def published_notes(results: Results) -> list[str]:
    """Why results of ours are not comparable with the published ones: a sentence per benchmark and reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model, summaries in results.models.items():
        scores = comparable(summaries, results.agentboard)
        for name in published().episodes:
            if name not in scores:
                reason = why_not_comparable(name, summaries, results.agentboard)
                reasons.setdefault((name, reason), []).append(label(model))
    return [
        f"{label(name)} is {NOT_COMPARABLE} for {', '.join(models)}: {reason}."
        for (name, reason), models in reasons.items()
    ]


def _score(score: Score | None, *, starred: bool = False) -> str:
    if score is None:
        return NOT_COMPARABLE
    return f"{score.success:.1f} / {score.progress:.1f}{'*' if starred else ''}"


def verdict_sentence(comparison: Comparison) -> str:
    """A paired comparison in words."""
    difference, a, b = comparison.success_difference, label(comparison.a), label(comparison.b)
    if comparison.played_once:
        episodes = (
            f"{difference.n} episodes; solved by {a} alone: {comparison.only_a}, by {b} alone: {comparison.only_b}"
        )
    else:
        episodes = (
            f"{difference.n} episodes in {comparison.pairs} pairs; solved more often by {a}: {comparison.only_a}, "
            f"by {b}: {comparison.only_b}"
        )
    left_out = f"; left out, because the simulator failed: {comparison.left_out}" if comparison.left_out else ""
    return (
        f"{label(comparison.benchmark)}: {a} against {b}: {comparison.verdict} ({comparison.reason}); success differs "
        f"by {percent(difference, sign='+')} points over {episodes}{left_out}."
    )


def percent(rate: Rate, sign: str = "", digits: int = 1) -> str:
    """A rate in percent with its interval, such as `56.0 [42.3, 68.8]`; `-` where nothing was measured."""
    return _interval(rate, 100, f"{sign}.{digits}f")


def number(rate: Rate, digits: int = 1) -> str:
    """A mean as it is, with its interval."""
    return _interval(rate, 1, f",.{digits}f")


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def count(value: int) -> str:
    """A number with its thousands apart."""
    return f"{value:,}"


def _interval(rate: Rate, unit: float, form: str) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "-"
    value, low, high = (format(unit * part, form) for part in (rate.value, rate.low, rate.high))
    return f"{value} [{low}, {high}]"


def _grouped(rows: Iterable[tuple[str, str, list[str]]]) -> list[dict[str, Any]]:
    """Rows of benchmark, model and cells; `first` marks a benchmark's first."""
    found: list[dict[str, Any]] = []
    for benchmark, model, cells in rows:
        first = not found or found[-1]["benchmark"] != label(benchmark)
        found.append({"benchmark": label(benchmark), "model": label(model), "first": first, "cells": cells})
    return found
