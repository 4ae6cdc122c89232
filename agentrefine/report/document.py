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
from agentrefine.report import costs, figures, plots, tables
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
        "title": title(params, results),
        "evidence": evidence(params, results),
        "caveats": caveats(params, results.quantisation).values(),
        "play": play_sentence(params.evaluation),
        "shows_published": params.evaluation.data.agentboard is not None,
        "plots": draw_plots(results, out / "plots"),
        "tuning_note": tuning_note(params),
        "costs": costs,
        "params": params,
        "next_steps": next_steps(params),
        "episodes": [e for model in tuned for e in notable_episodes(project.episodes(model))],
    }
    write_json(out / "comparisons.json", figures.comparison_table(results.comparisons))
    write_json(out / "metrics.json", figures.headline_metrics(params, results))
    for name in ("report.md", "report.html"):
        write_text(out / name, render(f"{name}.jinja", values))
    return results


def draw_plots(results: Results, folder: Path) -> list[Plot]:
    """Draw the figures that show something, and write the numbers of all benchmarks beside them as CSV."""
    models = results.models
    drawings: list[tuple[str, Sequence[figures.Row], Callable[..., None]]] = [
        ("success", figures.rate_bars(models, "success_rate"), partial(plots.rate_bars, name="success rate")),
        ("differences", figures.differences(results.against(results.baseline)), plots.difference_points),
        ("recovery", figures.rate_bars(models, "recovery_rate"), partial(plots.rate_bars, name="recovery rate")),
        ("recovery_by_kind", figures.kind_bars(models), plots.kind_bars),
        ("progress", figures.step_points(models), plots.step_curves),
        ("wordings", figures.perturbation_bars(models), plots.perturbation_bars),
        ("loss", figures.loss_rows(results.curves), partial(plots.loss_curves, validation=results.validation_curves)),
    ]
    drawn = []
    for name, rows, draw in drawings:
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)  # of an earlier report, where it showed something
        if rows:
            plots.write_table(path.with_suffix(".csv"), rows)
        if shown := figures.informative(rows, results.at_chance):
            draw(path, shown)
            png = path.read_bytes()
            width = int.from_bytes(png[16:20])  # in PNG's header
            title = TEXTS["figures"][name]
            drawn.append(Plot(path.name, title, base64.b64encode(png).decode(), round(width * HTML_SCALE)))
    return drawn


def title(params: Params, results: Results) -> str:
    """The result in one line: what the first pair of models reached on the benchmark that decides, and what follows.

    Where no pair can be compared, what all reached there.
    """
    found = next((found for found in _findings(params, results) if found.success_difference.n), None)
    if found is None:
        return _reached_by_all(params, results).removesuffix(".")
    new, old = _named(params, found.a), _named(params, found.b)
    a, b = _reached(results, found)
    place, _ = _benchmark_text(found.benchmark)
    return f"{_sentence(new)}: {a}% against {b}% with {old} on {place}, {TEXTS['claims'][found.verdict]}"


def evidence(params: Params, results: Results) -> list[str]:
    """What the title rests on and what was played, then what the headline says further."""
    findings = _findings(params, results)
    first, *rest = headline(params, results)
    if findings and findings[0].success_difference.n:
        first = f"{_sentence(_difference(findings[0]))}. {TEXTS['rule']}"
    sentences = [sentence for sentence in (first, *rest) if sentence != f"{title(params, results)}."]
    benchmark = params.report.champion_benchmark
    _, about = _benchmark_text(benchmark)
    if about and any(benchmark in summaries for summaries in results.models.values()):
        sentences.append(f"{_sentence(label(benchmark))} are {about}.")
    return sentences


def _benchmark_text(name: str) -> tuple[str, str]:
    """A benchmark as a title names it, and what it is; empty where its name says it."""
    place, about = TEXTS["benchmarks"].get(name, (label(name), ""))
    return place, about


def headline(params: Params, results: Results) -> list[str]:
    """The main finding: each tuned model against the baseline on the benchmark that decides, then all that played it.

    Where `report.baseline` names nothing that is evaluated, the last sentence says what stands for it.
    """
    sentences = [_finding(params, results, found) for found in _findings(params, results)]
    sentences.append(_reached_by_all(params, results))
    wanted = params.report.baseline
    if wanted != results.baseline:
        known = wanted in params.evaluation.players
        reason = "nothing else is tuned" if known else "nothing that is evaluated has that name"
        sentences.append(f"{_sentence(label(results.baseline))} stands for report.baseline {wanted}: {reason}.")
    return sentences


def _findings(params: Params, results: Results) -> list[Comparison]:
    """Each tuned model against the baseline on the benchmark that decides; the report is about the first."""
    tuned = [a for a, b in compared_pairs(params) if b == results.baseline and a in params.evaluation.models]
    against = results.against(results.baseline)
    return [found for found in against if found.a in tuned and found.benchmark == params.report.champion_benchmark]


def _reached_by_all(params: Params, results: Results) -> str:
    """The success of all on the benchmark that decides, or that nobody played it."""
    benchmark = params.report.champion_benchmark
    reached = [
        f"{label(model)} {_whole(summaries[benchmark].success_rate.value)}%"
        for model, summaries in results.models.items()
        if benchmark in summaries and summaries[benchmark].success_rate.n
    ]
    if not reached:
        return f"{_sentence(label(benchmark))}, the benchmark that decides, was not played."
    ahead = [found.is_ahead for found in results.against(CHANCE) if found.benchmark == benchmark]
    none = "; nobody is above chance" if ahead and not any(ahead) else ""
    return f"Success on {label(benchmark)}: {', '.join(reached)}{none}."


def _finding(params: Params, results: Results, found: Comparison) -> str:
    """A paired comparison of success as the sentence that a reader takes home."""
    new, old = _named(params, found.a), _named(params, found.b)
    place = f"on {label(found.benchmark)}"
    if not found.success_difference.n:
        return f"{_sentence(new)} cannot be compared with {old} {place}: the simulator failed in every episode."
    if found.verdict in ("better", "worse"):
        claim, against = f"is {found.verdict} than {old}", ""
    else:
        claim, against = "shows no clear difference", f" with {old}"
    a, b = _reached(results, found)
    return f"{_sentence(new)} {claim} {place}: {a}% against {b}%{against}, {_difference(found)}."


def _reached(results: Results, found: Comparison) -> tuple[str, str]:
    """The success of both models in whole percent."""
    a, b = (_whole(results.models[model][found.benchmark].success_rate.value) for model in (found.a, found.b))
    return a, b


def _difference(found: Comparison) -> str:
    """By how much two models differ, and how sure that is."""
    difference = found.success_difference
    assert difference.value is not None
    assert difference.low is not None
    assert difference.high is not None
    few = f"; only {found.only_a + found.only_b} differ" if found.verdict == "too few episodes differ" else ""
    points = f"{100 * difference.value:+.0f} points [{100 * difference.low:.0f}, {100 * difference.high:.0f}]"
    return f"difference {points}, exact test p = {found.p_value:.2g}, {difference.n} episodes{few}"


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
    model = params.evaluation.models[-1]
    return [{"shows": shows, "command": text.format(model=model)} for shows, text in TEXTS["next_steps"]]


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
