"""The report: what the stages counted and what the models reached, as Markdown and as one HTML page."""

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import Comparison
from agentrefine.files import packaged_path, write_json, write_text
from agentrefine.params import Params
from agentrefine.params.evaluation import CHANCE, INSTALLED, EvaluationParams
from agentrefine.params.tuning import BASE, PLAIN
from agentrefine.report import figures, plots, tables
from agentrefine.report.figures import label
from agentrefine.report.inputs import Project, Results, compared_pairs, load_results, notable_episodes
from agentrefine.report.tables import TEXTS, count, percent

HTML_SCALE = 0.7
"""Pixels of the HTML page by those of a figure's PNG, so that its letters have the size of the text."""


class Plot(NamedTuple):
    """A figure of the report: its file's name, its title, its PNG in base64 and its width in pixels of the page."""

    name: str
    title: str
    base64: str
    width: int


def write_report(params: Params, project: Project = Project()) -> Results:  # noqa: B008 (frozen)
    """Write `report.md`, `report.html`, `metrics.json`, `comparisons.json` and `plots/` in `reports/`.

    Returns:
        What the report shows, for the terminal.

    Raises:
        UserError: a stage has not been run, or left something else than it should; names the file.
    """
    results = load_results(params, project)
    if not any(results.models.values()):
        message = "data/evaluation: no model has played any benchmark; run the stage evaluation again."
        raise UserError("stage_not_run", message, file="data/evaluation", stage="evaluation")
    out = project.root / "reports"
    tuned = [model for model in params.evaluation.models if model != BASE]
    values = {
        "results": results,
        "tables": tables,
        "headline": headline(params, results),
        "caveats": caveats(params, results.quantisation).values(),
        "play": play_sentence(params.evaluation),
        "shows_published": params.evaluation.data.agentboard is not None,
        "plots": draw_plots(results, out / "plots"),
        "tuning_note": tuning_note(params),
        "models": len(params.evaluation.models) + len(params.evaluation.endpoints),
        "next_steps": next_steps(params),
        "episodes": [e for model in tuned for e in notable_episodes(project.episodes(model))],
    }
    write_json(out / "comparisons.json", figures.comparison_table(results.comparisons))
    write_json(out / "metrics.json", figures.headline_metrics(params, results))
    for name in ("report.md", "report.html"):
        write_text(out / name, render(f"{name}.jinja", values))
    return results


def draw_plots(results: Results, folder: Path) -> list[Plot]:
    """Draw the figures and write their numbers beside them as CSV; what has no numbers is left out."""
    models = results.models
    drawings: list[tuple[str, Sequence[figures.Row], Callable[..., None]]] = [
        ("success", figures.rate_bars(models, "success_rate"), partial(plots.rate_bars, name="success rate")),
        ("recovery", figures.rate_bars(models, "recovery_rate"), partial(plots.rate_bars, name="recovery rate")),
        ("differences", figures.differences(results.against(results.baseline)), plots.difference_points),
        ("progress", figures.step_points(models), plots.step_curves),
        ("wordings", figures.perturbation_bars(models), plots.perturbation_bars),
        ("loss", figures.loss_rows(results.curves), partial(plots.loss_curves, validation=results.validation_curves)),
    ]
    drawn = []
    for name, rows, draw in drawings:
        if rows:
            path = folder / f"{name}.png"
            draw(path, rows)
            plots.write_table(path.with_suffix(".csv"), rows)
            png = path.read_bytes()
            width = int.from_bytes(png[16:20])  # in PNG's header
            title = TEXTS["figures"][name]
            drawn.append(Plot(path.name, title, base64.b64encode(png).decode(), round(width * HTML_SCALE)))
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
    if variant is not None and (model, variant.train_on) == ("refinement", "correct_turns"):
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
    policies = {
        variant.train_on for name, variant in params.tuning.variants.items() if name in params.evaluation.models
    }
    return str(TEXTS["tuning_note"]) if PLAIN in policies and len(policies) > 1 else ""


def next_steps(params: Params) -> list[dict[str, str]]:
    """Commands that show more, each with what it shows."""
    uri = "<tracking.uri>" if "@" in params.tracking.uri else params.tracking.uri
    model = params.evaluation.models[-1]
    return [{"shows": shows, "command": text.format(uri=uri, model=model)} for shows, text in TEXTS["next_steps"]]


def episodes_to_read(model: str, episodes: Sequence[Episode]) -> str:
    """Episodes as a Markdown page, the whole dialogue after the instructions."""
    return render("episodes.md.jinja", {"model": model, "episodes": episodes})


def play_sentence(evaluation: EvaluationParams) -> str:
    """By which rules the episodes were played."""
    temperature = evaluation.sampling.temperature
    drawn = f"Replies drawn at temperature {temperature:g}" if temperature else "Greedy play"
    examples = f", {evaluation.prompting.shots} example in the instructions" if evaluation.prompting.shots else ""
    acting = ", actions without thoughts" if evaluation.prompting.style == "act" else ""
    stuck = evaluation.stop_on_repeats
    ended = f", ended when one failing action has come {stuck} times" if stuck else ""
    return f"{drawn}{examples}{acting}, at most {evaluation.max_steps} steps an episode{ended}."


def caveats(params: Params, quantisation: str | None) -> dict[str, str]:
    """What a reader of the results has to know of the teacher, the model and the benchmarks, by name.

    `quantisation` is what the base's weights were dequantised from, if they were.
    """
    played = params.evaluation.benchmarks
    applies = {
        "simulated_teacher": params.teacher.uses_simulated_teacher,
        "tiny_model": params.base_model.is_tiny,
        "dequantised": quantisation is not None,
        "bookkeeping": played == INSTALLED or any(name.startswith("worlds") for name in played),
    }
    return {name: TEXTS["caveats"][name].format(quantisation=quantisation) for name, is_so in applies.items() if is_so}


def by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Counts by name, the largest first, equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def render(template: str, values: dict[str, Any]) -> str:
    """A template of `agentrefine/report/templates` with its values; HTML is escaped, an undefined name is an error."""
    environment = Environment(
        loader=FileSystemLoader(packaged_path("agentrefine.report", "templates")),
        autoescape=template.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters |= {"by_count": by_count, "label": label, "percent": percent, "thousands": count}
    return environment.get_template(template).render(values)
