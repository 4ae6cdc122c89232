"""The tables of the report: metrics as rows of text, in percent where they are shares."""

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict
from rich.padding import Padding
from rich.table import Table

from agentrefine.evaluation.metrics import BenchmarkSummary, Comparison, Rate
from agentrefine.files import packaged_text
from agentrefine.params.evaluation import CHANCE
from agentrefine.report.figures import MIN_ERRORS, label, played
from agentrefine.report.inputs import FAULTY, SOUND, Results

NOT_COMPARABLE = "not comparable"
"""The cell of a result that does not stand beside the published ones."""

TEXTS: dict[str, Any] = yaml.safe_load(packaged_text("agentrefine.report", "texts.yaml"))
"""Sentences, headings and titles of the report and of the cards."""

COLUMNS: dict[str, tuple[str, str]] = TEXTS["columns"]
"""Rates by their names in `BenchmarkSummary`: heading and meaning."""


class Score(NamedTuple):
    """Success and progress in percent: `Score(61.9, 76.9)`."""

    success: float
    progress: float


class Published(BaseModel):
    """`published.yaml`.

    Example: `{"source": "AgentRefine ...", "episodes": {"pddl": 60, ...}, "held_out": ["pddl", ...],
    "models": {"GPT-4o": {"pddl": [61.7, 69.8], ...}}, "held_in": {"Agent-FLAN (8B)": ["alfworld"]}}`

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
        weights = [self.episodes[name] for name in self.held_out]
        success, progress = zip(*(scores[name] for name in self.held_out), strict=True)
        return Score(fmean(success, weights), fmean(progress, weights))


@cache
def published() -> Published:
    """The published results."""
    return Published.model_validate(yaml.safe_load(packaged_text("agentrefine.report", "published.yaml")))


def comparable_score(name: str, summaries: Mapping[str, BenchmarkSummary], agentboard: Collection[str]) -> Score | str:
    """What a model reached on a benchmark if it has played all of AgentBoard's episodes, each once; else why it does
    not stand beside the published results.
    """
    summary = summaries.get(name)
    if summary is None:
        return "not played"
    if name not in agentboard:
        return "other episodes than AgentBoard's"
    if summary.attempts > 1:
        return f"{summary.attempts} attempts at each episode"
    if summary.episodes != published().episodes[name]:
        return f"{summary.episodes} of {published().episodes[name]} episodes"
    success, progress = summary.success_rate.value, summary.progress_rate.value
    assert success is not None
    assert progress is not None
    return Score(100 * success, 100 * progress)


def shown(results: Results, *, at_chance: bool = False) -> Iterator[tuple[str, str, BenchmarkSummary]]:
    """Benchmark, model and summary, without the benchmarks on which nobody is above chance, or of these alone."""
    return (found for found in played(results.models) if (found[0] in results.at_chance) == at_chance)


def terminal_table(results: Results) -> Table:
    """The result table for the terminal, in whole percent: each benchmark with a line per model below it.

    Success has its interval. The benchmarks on which nobody is above chance are left out (`at_chance_line`).
    """
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("percent")
    for heading, _ in COLUMNS.values():
        whole_words = max(map(len, heading.split()))
        table.add_column(heading, justify="right", min_width=whole_words)
    table.add_column("n", justify="right")
    previous = ""
    for benchmark, model, summary in shown(results):
        if benchmark != previous:
            table.add_row(f"[bold]{label(benchmark)}[/bold]")
            previous = benchmark
        rates = summary.rates()
        success, *others = (percent(rates[name], digits=0) for name in COLUMNS)
        cells = (cell.partition(" ")[0] for cell in others)
        table.add_row(Padding(label(model), (0, 0, 0, 2)), success, *cells, count(summary.episodes))
    return table


def result_rows(results: Results, *, at_chance: bool = False) -> list[list[str]]:
    """The main table: benchmark, model, `COLUMNS` with their intervals and episodes.

    With `at_chance`, the same rows of the benchmarks on which nobody is above chance, which it leaves out.
    """
    return [
        [label(benchmark), label(model), *(percent(summary.rates()[name]) for name in COLUMNS), count(summary.episodes)]
        for benchmark, model, summary in shown(results, at_chance=at_chance)
    ]


def at_chance_line(results: Results) -> str:
    """The benchmarks on which nobody is above chance, in one line; empty where there are none."""
    names = ", ".join(label(name) for name in results.at_chance)
    return f"Nobody above chance: {names}." if names else ""


def effort_rows(results: Results) -> list[list[str]]:
    """What an episode cost, and how varied the thoughts are: a row per benchmark and model."""
    rows = []
    for benchmark, model, summary in shown(results):
        thoughts = summary.thoughts
        cost = [
            number(summary.mean_steps),
            number(summary.mean_prompt_tokens, digits=0),
            number(summary.mean_completion_tokens, digits=0),
            _plain(results.seconds[model].get(benchmark)),
        ]
        distinct = (_plain(share) for share in (thoughts.distinct_1, thoughts.distinct_2, thoughts.distinct_3))
        variety = [count(thoughts.thoughts), *distinct, number(thoughts.self_bleu, digits=2)]
        rows.append([label(benchmark), label(model), *cost, *variety])
    return rows


def recovery_rows(results: Results) -> list[list[str]]:
    """What a model does after its errors: a row per benchmark and model that made enough of them (`MIN_ERRORS`)."""
    return [
        [
            label(benchmark),
            label(model),
            count(summary.recovery_rate.n),
            percent(summary.recovery_rate),
            percent(summary.recovery_within_3),
            number(summary.turns_to_recover),
            percent(summary.repeat_rate),
        ]
        for benchmark, model, summary in shown(results)
        if summary.recovery_rate.n >= MIN_ERRORS
    ]


def recovery_kind_rows(results: Results) -> list[list[str]]:
    """Recovery by kind of error: benchmark, kind, model, recovery, errors; without kinds of too few errors."""
    rows = [
        [label(benchmark), label(kind), label(model), percent(rate), count(rate.n)]
        for benchmark, model, summary in shown(results)
        for kind, rate in summary.recovery_by_kind.items()
        if rate.n >= MIN_ERRORS
    ]
    return sorted(rows, key=lambda row: row[:2])


def perturbation_rows(results: Results) -> list[list[str]]:
    """Success and progress under each perturbation on the same worlds, and their mean and standard deviation."""
    rows = []
    for benchmark, model, summary in shown(results):
        found = summary.robustness
        if found is None:
            continue
        start = [label(benchmark), label(model)]
        for name, reached in found.perturbations.items():
            rows.append([*start, label(name), percent(reached.success_rate), percent(reached.progress_rate)])
        means = ((found.mean.success_rate, found.success_std), (found.mean.progress_rate, found.progress_std))
        spread = [percent(rate) + ("" if std is None else f" ± {100 * std:.1f}") for rate, std in means]
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
    """What the main table does not show: failures of simulators, attempts, faults, what was not played and why."""
    sentences = []
    for benchmark, model, summary in played(results.models):
        of, failed = f"{label(benchmark)}, {label(model)}", summary.environment_errors
        if failed:
            episodes = f"{failed} of {summary.episodes + failed} episodes"
            sentences.append(f"{of}: the simulator failed in {episodes}, which are in no rate.")
        if summary.success_at_n is not None:
            sentences.append(
                f"{of}: {summary.attempts} attempts at each episode, of which n counts every one; "
                f"{percent(summary.success_at_n)}% of the episodes are solved by one of them at least"
                + (f", {percent(summary.success_in_all_n)}% by all." if summary.success_in_all_n else ".")
            )
    sentences += [_fault_sentence(results, model, loss) for model, loss in results.fault_losses.items()]
    return [*sentences, *(f"Not played: {reason}" for reason in dict.fromkeys(results.absent.values()))]


def _fault_sentence(results: Results, model: str, loss: Comparison) -> str:
    """How often the world failed a model, whether it tried again, and what that cost in success."""
    summary, met = results.models[model][FAULTY], "no step failed by a fault of the world"
    if summary.fault_rate and summary.retry_rate:
        met = (
            f"{percent(summary.fault_rate)}% of the steps failed by a fault of the world, after "
            f"{percent(summary.retry_rate)}% of which the next turn takes the same action"
        )
    return (
        f"{label(FAULTY)}, {label(model)}: {met}; success differs by {percent(loss.success_difference, sign='+')} "
        f"points from that on {label(SOUND)}, the same {count(loss.pairs)} worlds without faults: {loss.verdict} "
        f"({loss.reason})."
    )


def what_n_counts(results: Results, *, at_chance: bool = False) -> list[str]:
    """What n counts in the table of `result_rows` where the same worlds are played in several paraphrases."""
    sentences: dict[str, None] = {}
    for benchmark, _, summary in shown(results, at_chance=at_chance):
        if found := summary.robustness:
            worlds = f"{count(found.worlds)} worlds, each in {len(found.perturbations)} paraphrases of its actions"
            again = f", {summary.attempts} times" if summary.attempts > 1 else ""
            others = summary.episodes - found.worlds * len(found.perturbations) * summary.attempts
            more = f", and {count(others)} episodes of worlds that were not played in all of them" if others > 0 else ""
            ending = f"n counts episodes: {worlds}{again}{more}. Intervals and tests take a world as one."
            sentences[f"{label(benchmark)}: {ending}"] = None
    return list(sentences)


def verdicts(results: Results) -> list[str]:
    """The paired comparisons with the baseline and with the base in words, and who is above chance."""
    sentences = []
    above: dict[str, list[str]] = {}
    for found in results.comparisons:
        if found.benchmark in results.at_chance:
            continue
        if found.b == CHANCE:
            above.setdefault(found.benchmark, []).extend([label(found.a)] if found.is_ahead else [])
        else:
            sentences.append(verdict_sentence(found))
    ahead = (f"{label(name)}: above chance: {', '.join(models) or 'nobody'}." for name, models in above.items())
    return [*sentences, *ahead]


def published_rows(results: Results) -> list[list[str]]:
    """The paper's results and ours on AgentBoard's episodes, success / progress in percent, with the held-out score."""
    known = published()
    rows = []
    for model, scores in known.models.items():
        rows.append(_score_row(f"{model}, published", scores, known.held_in.get(model, ())))
    for model, summaries in results.models.items():
        found = {name: comparable_score(name, summaries, results.agentboard) for name in known.episodes}
        own = {name: score for name, score in found.items() if isinstance(score, Score)}
        rows.append(_score_row(label(model), own, ()))
    return rows


def _score_row(model: str, scores: Mapping[str, Score], held_in: Collection[str]) -> list[str]:
    """A model's row; a star marks what it was tuned on (`held_in`)."""
    known = published()
    cells = [(scores.get(name), name in held_in) for name in known.episodes]
    cells.append((known.held_out_score(scores), any(name in held_in for name in known.held_out)))
    row = [model]
    for score, starred in cells:
        star = "*" if starred else ""
        row.append(f"{score.success:.1f} / {score.progress:.1f}{star}" if score else NOT_COMPARABLE)
    return row


def published_notes(results: Results) -> list[str]:
    """Why results of ours are not comparable with the published ones: a sentence per benchmark and reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for model, summaries in results.models.items():
        for name in published().episodes:
            reason = comparable_score(name, summaries, results.agentboard)
            if isinstance(reason, str):
                reasons.setdefault((name, reason), []).append(label(model))
    return [
        f"{label(name)} is {NOT_COMPARABLE} for {', '.join(models)}: {reason}."
        for (name, reason), models in reasons.items()
    ]


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


def count(value: int) -> str:
    """A number with its thousands apart."""
    return f"{value:,}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(rate: Rate, unit: float, form: str) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return "-"
    value, low, high = (format(unit * part, form) for part in (rate.value, rate.low, rate.high))
    return f"{value} [{low}, {high}]"
