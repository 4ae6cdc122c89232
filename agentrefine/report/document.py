"""The report: what the stages counted and what the models reached, as Markdown and as one HTML page."""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import Comparison
from agentrefine.files import atomic_write, packaged_path, write_json
from agentrefine.game.counts import CallsEach, PerOne
from agentrefine.params import Params
from agentrefine.params.evaluation import CHANCE, INSTALLED, EvaluationParams
from agentrefine.params.tuning import BASE, PLAIN
from agentrefine.report import figures, plots, tables
from agentrefine.report.inputs import Project, Results, compared_pairs, load_results, notable_episodes
from agentrefine.report.plots import label
from agentrefine.report.tables import count, published

TUNING_COLUMNS = ("parameters", "games", "steps", "tokens read", "trained tokens", "train loss", "validation loss")

OFFLINE_TEACHER = (
    "The games were written by the rule-based simulated teacher, made for dry runs, tests and small studies; no "
    "language model wrote them."
)
TINY_MODEL = (
    "The tuned model is tiny (less than a million parameters, made here in minutes) and was tuned with one seed: the "
    "figures show what this pipeline does, not what refinement tuning does for a large model."
)
DEQUANTISED = (
    "The base model's weights are dequantised from {quantisation}: they have the precision of that format and are not "
    "those that were published. All models here were tuned from them or are them."
)
BOOKKEEPING = (
    "In the worlds, every observation restates where the player is, what is seen there, what is held, which places are "
    "new, which conditions of the goal are open, and where the player has last seen the objects of the first of them "
    "and the keys, tools, devices and the like. That bookkeeping is the environment's, not the model's, and a small "
    "model depends on it."
)
NEXT_STEPS = (
    ("Runs, loss curves and models side by side", "mlflow ui --backend-store-uri {uri} --host 127.0.0.1"),
    ("What changed against the last commit", "dvc metrics diff"),
    ("Curves against the last commit", "dvc plots diff"),
    ("The same pipeline with another setting", "dvc exp run -S tuning.learning_rate=1e-3"),
    ("What the loss is computed on, token by token", "agentrefine show-mask"),
    ("Every expectation of the quality gate", "less reports/quality_gate/summary.md"),
    ("Every episode, step by step, in a browser", "reports/evaluation/{model}/index.html"),
)


RATE_FIGURES: tuple[tuple[Literal["success_rate", "recovery_rate"], str, str], ...] = (
    ("success_rate", "Success rates with 95% intervals", "success"),
    ("recovery_rate", "Recovery: errors after which the next action is valid and different", "recovery"),
)
"""Rate, title and file name of the figures with a bar per model and benchmark."""

HTML_SCALE = 0.7
"""Pixels of the HTML page by those of a figure's PNG, so that its letters have the size of the text."""

RowT = TypeVar("RowT", bound=plots.Row)


class Plot(NamedTuple):
    """A figure of the report.

    Attributes:
        name: the file's name.
        title: what it shows.
        base64: its PNG bytes, for the HTML page.
        width: in pixels of the HTML page.
    """

    name: str
    title: str
    base64: str
    width: int


def write_report(params: Params, project: Project = Project()) -> Results:  # noqa: B008 (frozen)
    """Write `report.md`, `report.html`, `comparisons.json` and `plots/` in `reports/` from what the stages left.

    Returns:
        What the report shows, for the terminal.

    Raises:
        UserError: a stage has not been run, or left something else than it should; names the file.
    """
    results = load_results(params, project)
    if not any(results.models.values()):
        raise UserError(
            "stage_not_run",
            "data/evaluation: no model has played any benchmark; run the stage evaluation again.",
            file="data/evaluation",
            stage="evaluation",
        )
    out = project.root / "reports"
    values = _values(params, results, draw_plots(results, out / "plots"))
    tuned = [model for model in params.evaluation.models if model != BASE]
    notable = [e for model in tuned for e in notable_episodes(project.episodes(model))]
    write_json(out / "comparisons.json", figures.comparison_table(results.comparisons))
    with atomic_write(out / "report.md") as handle:
        handle.write(render("report.md.jinja", values))
    with atomic_write(out / "report.html") as handle:
        handle.write(render("report.html.jinja", {**values, "episodes": notable}))
    return results


def draw_plots(results: Results, folder: Path) -> list[Plot]:
    """Draw the figures and write their numbers beside them as CSV; what has no numbers is left out."""
    drawn = []

    def draw(name: str, title: str, rows: Sequence[RowT], figure: Callable[[Path, Sequence[RowT]], None]) -> None:
        if rows:
            path = folder / f"{name}.png"
            figure(path, rows)
            plots.write_table(path.with_suffix(".csv"), rows)
            png = path.read_bytes()
            width = int.from_bytes(png[16:20])  # in PNG's header
            drawn.append(Plot(path.name, title, base64.b64encode(png).decode(), round(width * HTML_SCALE)))

    models = results.models
    for rate, title, name in RATE_FIGURES:
        draw(name, title, figures.rate_bars(models, rate), partial(plots.rate_bars, name=f"{name} rate"))
    against = figures.differences(results.against(results.baseline))
    title = "Model against model on the same episodes, with 95% intervals"
    draw("differences", title, against, plots.difference_points)
    title = "Mean progress over the steps of an episode"
    draw("progress", title, figures.step_points(models), plots.step_curves)
    title = "The same worlds in several wordings of the actions"
    draw("wordings", title, figures.wording_bars(models), plots.wording_bars)
    title = "Training loss on the unmasked tokens"

    def draw_losses(path: Path, _: Sequence[plots.LossRow]) -> None:
        plots.loss_curves(path, results.curves, results.validation_curves)

    draw("loss", title, plots.loss_rows(results.curves), draw_losses)
    return drawn


def headline(params: Params, results: Results) -> list[str]:
    """The main finding: each tuned model against the baseline on the benchmark that decides, then all that played it.

    Where `report.baseline` names nothing that is evaluated, the last sentence says what stands for it.
    """
    benchmark = params.report.champion_benchmark
    tuned = [a for a, b in compared_pairs(params) if b == results.baseline and a in params.evaluation.models]
    sentences = [
        _finding(params, results, found)
        for found in results.against(results.baseline)
        if found.a in tuned and found.benchmark == benchmark
    ]
    reached = [
        f"{label(model)} {_whole(summaries[benchmark].success_rate.value)}%"
        for model, summaries in results.models.items()
        if benchmark in summaries and summaries[benchmark].success_rate.n
    ]
    if reached:
        ahead = [found.is_ahead for found in results.against(CHANCE) if found.benchmark == benchmark]
        none = "; nobody is above chance" if ahead and not any(ahead) else ""
        sentences.append(f"Success on {label(benchmark)}: {', '.join(reached)}{none}.")
    else:
        sentences.append(f"{_sentence(label(benchmark))}, the benchmark that decides, was not played.")
    wanted = params.report.baseline
    if wanted != results.baseline:
        known = wanted in params.evaluation.players
        reason = "nothing else is tuned" if known else "nothing that is evaluated has that name"
        sentences.append(f"{_sentence(label(results.baseline))} stands for report.baseline {wanted}: {reason}.")
    return sentences


def _finding(params: Params, results: Results, found: Comparison) -> str:
    """A paired comparison of success as the sentence that a reader takes home."""
    difference = found.success_difference
    new, old = _named(params, found.a), _named(params, found.b)
    place = f"on {label(found.benchmark)}"
    if difference.value is None or difference.low is None or difference.high is None:
        return f"{_sentence(new)} cannot be compared with {old} {place}: the simulator failed in every episode."
    if found.verdict in ("better", "worse"):
        claim, against = f"is {found.verdict} than {old}", ""
    else:
        claim, against = "shows no clear difference", f" with {old}"
    a, b = (_whole(results.models[model][found.benchmark].success_rate.value) for model in (found.a, found.b))
    low, high = (f"{100 * end:.0f}" for end in (difference.low, difference.high))
    few = f"; only {found.only_a + found.only_b} differ" if found.verdict == "too few episodes differ" else ""
    points = f"{100 * difference.value:+.0f} points [{low}, {high}]"
    return (
        f"{_sentence(new)} {claim} {place}: {a}% against {b}%{against}, difference {points}, "
        f"exact test p = {found.p_value:.2g}, {difference.n} episodes{few}."
    )


def _named(params: Params, model: str) -> str:
    """A model as a sentence names it: by what it stands for where its name says so."""
    variant = params.tuning.variants.get(model)
    if variant is not None and model == variant.train_on == "refinement":
        return "refinement tuning"
    if variant is not None and variant.train_on == PLAIN:
        return "plain expert tuning" + ("" if model == "expert_only" else f" ({label(model)})")
    return "the base that it was tuned from" if model == BASE else label(model)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _whole(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def tuning_note(params: Params) -> str:
    """How the variants' tunings differ; empty where there is nothing to compare."""
    losses = {variant.train_on for name, variant in params.tuning.variants.items() if name in params.evaluation.models}
    if PLAIN not in losses or len(losses) < 2:
        return ""
    return (
        "On the same data set, all variants see the same games as often and take the same number of steps. Where the "
        "mistakes are cut out, the games are shorter, so fewer tokens are read."
    )


def next_steps(params: Params) -> list[dict[str, str]]:
    """Commands that show more, each with what it shows."""
    fitting = {"uri": params.tracking.uri, "model": params.evaluation.models[-1]}
    if "@" in params.tracking.uri:
        fitting["uri"] = "<tracking.uri>"
    return [{"shows": shows, "command": command.format(**fitting)} for shows, command in NEXT_STEPS]


def episodes_to_read(model: str, episodes: Sequence[Episode]) -> str:
    """Episodes as a Markdown page, the whole dialogue after the instructions."""
    return render("episodes.md.jinja", {"model": model, "episodes": episodes})


def _values(params: Params, results: Results, drawn: Sequence[Plot]) -> dict[str, Any]:
    return {
        "results": results,
        "counts": results.synthesis,
        "headline": headline(params, results),
        "caveats": caveats(params, results.quantisation),
        "play": play_sentence(params.evaluation),
        "tuning_columns": TUNING_COLUMNS,
        "columns": [*(heading for heading, _ in tables.COLUMNS.values()), "n"],
        "rows": tables.result_rows(results),
        "at_chance": tables.at_chance_line(results),
        "rows_at_chance": tables.result_rows(results, at_chance=True),
        "published": _published(params, results),
        "meanings": [
            *(f"{heading}: {meaning}" for heading, meaning in tables.COLUMNS.values()),
            *(f"progress in {label(name)}: {measure}." for name, measure in results.progress.items()),
            *tables.EFFORT_MEANINGS,
        ],
        "notes": tables.notes(results),
        "effort_columns": [*tables.EFFORT_COLUMNS, *tables.THOUGHT_COLUMNS],
        "effort": tables.effort_rows(results),
        "wordings": tables.wording_rows(results),
        "by_difficulty": tables.breakdown_rows(results, "difficulty"),
        "by_task": tables.breakdown_rows(results, "task"),
        "plots": drawn,
        "verdicts": tables.verdicts(results),
        "stages": _stages(results),
        "rules": _rules(results),
        "gate": _gate(results),
        "tuning": _tuning(results),
        "tuning_note": tuning_note(params),
        "models": len(params.evaluation.models) + len(params.evaluation.endpoints),
        "next_steps": next_steps(params),
    }


def play_sentence(evaluation: EvaluationParams) -> str:
    """By which rules the episodes were played."""
    temperature = evaluation.sampling.temperature
    drawn = f"Replies drawn at temperature {temperature:g}" if temperature else "Greedy play"
    examples = f", {evaluation.prompting.shots} example in the instructions" if evaluation.prompting.shots else ""
    acting = ", actions without thoughts" if evaluation.prompting.style == "act" else ""
    stuck = evaluation.stop_on_repeats
    ended = f", ended when one failing action has come {stuck} times" if stuck else ""
    return f"{drawn}{examples}{acting}, at most {evaluation.max_steps} steps an episode{ended}."


def caveats(params: Params, quantisation: str | None) -> list[str]:
    """What a reader of the results has to know of the teacher, the model and the benchmarks.

    Args:
        params: of the run.
        quantisation: what the base's weights were dequantised from, if they were.
    """
    played = params.evaluation.benchmarks
    return [
        *([OFFLINE_TEACHER] if params.teacher.uses_offline else []),
        *([TINY_MODEL] if params.base_model.is_tiny else []),
        *([DEQUANTISED.format(quantisation=quantisation)] if quantisation else []),
        *([BOOKKEEPING] if played == INSTALLED or any(name.startswith("worlds") for name in played) else []),
    ]


def _published(params: Params, results: Results) -> dict[str, Any] | None:
    """The paper's results beside ours; None unless AgentBoard's episodes are played."""
    if params.evaluation.data.agentboard is None:
        return None
    return {
        "source": published().source,
        "columns": tables.published_columns(),
        "rows": tables.published_rows(results),
        "notes": tables.published_notes(results),
    }


def _stages(results: Results) -> list[dict[str, str]]:
    synthesis, verification, refinement = results.synthesis, results.verification, results.refinement
    together = refinement.with_synthesis
    counts = [
        ("synthesis", "personas", count(synthesis.personas)),
        ("synthesis", "samples asked for", count(synthesis.samples)),
        ("synthesis", "scripts written", count(synthesis.scripts)),
        ("synthesis", "trajectories written", count(synthesis.trajectories)),
        ("synthesis", "calls of the teacher", count(synthesis.calls)),
        ("synthesis", "prompt tokens", count(synthesis.prompt_tokens)),
        ("synthesis", "completion tokens", count(synthesis.completion_tokens)),
        ("synthesis", "cost", _dollars(synthesis.cost_usd)),
        ("verification", "first answers judged", count(verification.judged)),
        ("verification", "passed", count(verification.passed)),
        ("verification", "rejected", count(verification.rejected)),
        ("refinement", "further calls of the teacher", count(refinement.calls)),
        ("refinement", "cost", _dollars(refinement.cost_usd)),
        ("refinement", "samples kept", count(refinement.kept)),
        ("refinement", "samples dropped", count(refinement.dropped)),
        ("refinement", "personas with a kept sample", count(refinement.personas_kept)),
        ("refinement", "personas without", count(refinement.personas_dropped)),
        ("both", "cost", _dollars(together.cost_usd)),
        *_costs("persona", together.per_persona),
        *_costs("kept trajectory", together.per_kept_trajectory),
    ]
    return [{"stage": stage, "what": what, "count": counted} for stage, what, counted in counts]


def _costs(unit: str, counts: PerOne) -> list[tuple[str, str, str]]:
    if not isinstance(counts, CallsEach):
        return []
    return [
        ("both", f"calls per {unit}", f"{counts.calls:.2f}"),
        ("both", f"tokens per {unit}", count(round(counts.tokens))),
        ("both", f"cost per {unit}", _dollars(counts.cost_usd)),
    ]


def _dollars(cost: float | str) -> str:
    """US dollars; an unknown cost stays a word."""
    return cost if isinstance(cost, str) else f"${cost:,.4f}"


def _rules(results: Results) -> list[dict[str, str]]:
    rejected, dropped = results.verification.by_rule, results.refinement.dropped_by_rule
    names = sorted(rejected.keys() | dropped.keys(), key=lambda rule: (-rejected.get(rule, 0), rule))
    return [
        {"rule": rule, "rejected": count(rejected.get(rule, 0)), "dropped": count(dropped.get(rule, 0))}
        for rule in names
    ]


def _gate(results: Results) -> dict[str, Any]:
    gate = results.gate
    met = sum(finding.success for finding in gate.findings)
    outcome = "passed" if gate.passed else "was refused"
    sentence = f"The data set {outcome}: {met} of {len(gate.findings)} expectations are met."
    findings = [
        {
            "severity": finding.severity,
            "name": f"{label(finding.scope)}: {label(finding.column)}",
            "observed": finding.observed,
            "expected": finding.expected,
        }
        for finding in gate.failures
    ]
    return {"sentence": sentence, "findings": findings}


def _tuning(results: Results) -> list[list[str]]:
    return [
        [
            label(variant),
            count(tuned.parameters),
            count(tuned.rendering.samples),
            count(tuned.steps),
            count(tuned.tokens),
            f"{count(tuned.trained_tokens)} ({100 * tuned.trained_token_share:.1f}%)",
            f"{tuned.train_loss:.3f}",
            " -> ".join(
                "-" if loss is None else f"{loss:.3f}" for loss in (tuned.validation_loss_before, tuned.validation_loss)
            ),
        ]
        for variant, tuned in results.tuning.items()
    ]


def render(template: str, values: dict[str, Any]) -> str:
    """A template of `agentrefine/report/templates` with its values; HTML is escaped, an undefined name is an error."""
    environment = Environment(
        loader=FileSystemLoader(packaged_path("agentrefine.report", "templates")),
        autoescape=template.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)
