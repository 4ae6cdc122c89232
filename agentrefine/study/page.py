"""The page of a study: questions and answers, every variant on every benchmark, seed by seed, and the tunings."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from agentrefine.errors import UserError
from agentrefine.evaluation.metrics import Rate
from agentrefine.files import packaged_text, write_json, write_text
from agentrefine.report.figures import Bar, label
from agentrefine.report.plots import rate_bars
from agentrefine.report.tables import count, percent
from agentrefine.study.rates import (
    MIN_SEEDS,
    NOT_TUNED,
    SeededDifference,
    seeded_difference,
    seeded_rate,
)
from agentrefine.study.results import (
    MEASURES,
    Measure,
    Result,
    benchmarks_of,
    counts_of,
    read_results,
    recoveries_of,
    variants_of,
)

_TEXTS = yaml.safe_load(packaged_text("agentrefine.study", "questions.yaml"))
ASKED = ("success", "recovery", "stuck")
"""The measures that every question is answered for."""


class StudyAnswer(NamedTuple):
    """What a study says to one question on one benchmark.

    Attributes:
        question: as people ask it.
        benchmark, measure: where, and by which rate.
        a, b: the variants.
        of_a, of_b: their rates on all that each has played.
        difference: `a` minus `b` on what both have played.
    """

    question: str
    benchmark: str
    measure: str
    a: str
    b: str
    of_a: Rate
    of_b: Rate
    difference: SeededDifference


def write_study(results: Path, out: Path, first_benchmark: str) -> str:
    """Write `study.md`, `study.json`, `success.png` and `recovery.png` into `out`; returns the page.

    Args:
        results: the folder of the results.
        out: where the files go.
        first_benchmark: that the title is about.

    Raises:
        UserError: there is no result, one is broken, results that cannot be compared, or a full disk.
    """
    found = read_results(results)
    variants, benchmarks = _in_order(variants_of(found)), benchmarks_of(found)
    if not benchmarks:
        message = f"{results}: no episode was played to its end, so there is nothing to compare; play them again."
        raise UserError("no_results", message, file=results)
    benchmarks.sort(key=lambda name: name != first_benchmark)
    rates = {
        benchmark: {
            name: {measure.name: seeded_rate(counts_of(models, benchmark, measure)) for measure in MEASURES}
            for name, models in variants.items()
        }
        for benchmark in benchmarks
    }
    answers = list(_answers(variants, [name for name in benchmarks if _is_solved(rates[name], variants)]))
    page = "\n".join(_page(found, variants, rates, answers)).rstrip() + "\n"
    write_text(out / "study.md", page)
    write_json(out / "study.json", _values(rates, answers))
    for name in ("success", "recovery"):
        bars = [
            Bar(benchmark, variant, rate.value, rate.low, rate.high, rate.n)
            for benchmark, of_variants in rates.items()
            for variant, measured in of_variants.items()
            if (rate := measured[name]).value is not None and rate.low is not None and rate.high is not None
        ]
        rate_bars(out / f"{name}.png", bars, f"{name}, all seeds")
    return page


def _in_order(variants: dict[str, list[Result]]) -> dict[str, list[Result]]:
    """The variants in the order of tables, unknown ones last."""
    names = [*_TEXTS["order"], *variants]
    return {name: variants[name] for name in dict.fromkeys(names) if name in variants}


def _answers(variants: Mapping[str, Sequence[Result]], benchmarks: Sequence[str]) -> Iterator[StudyAnswer]:
    for asked in _TEXTS["questions"]:
        if asked["a"] not in variants or asked["b"] not in variants:
            continue
        for benchmark in benchmarks:
            for measure in (measure for measure in MEASURES if measure.name in ASKED):
                a, b = (counts_of(variants[asked[side]], benchmark, measure) for side in "ab")
                difference = seeded_difference(a, b)
                if difference is not None:
                    yield StudyAnswer(
                        asked["question"], benchmark, measure.name, asked["a"], asked["b"],
                        seeded_rate(a), seeded_rate(b), difference,
                    )  # fmt: skip


def _page(
    results: Sequence[Result],
    variants: Mapping[str, Sequence[Result]],
    rates: Mapping[str, Mapping[str, Mapping[str, Rate]]],
    answers: Sequence[StudyAnswer],
) -> Iterator[str]:
    """The lines of the page."""
    yield f"# {answers[0].question} {_sentence(answers[0])}" if answers else "# Variants and seeds side by side"
    yield ""
    bases = {result.card.base_digest for result in results if result.card.base_digest}
    if len(bases) > 1:
        yield f"> The models were tuned from {len(bases)} different bases: another processor pretrains another one."
        yield ""
    yield " ".join(_TEXTS["rule"].format(needed=MIN_SEEDS).split())
    yield ""
    yield from _questions(answers)
    unsolved = [label(benchmark) for benchmark, found in rates.items() if not _is_solved(found, variants)]
    for benchmark, of_variants in rates.items():
        if label(benchmark) not in unsolved:
            yield from _benchmark(benchmark, of_variants, variants)
    if unsolved:
        yield f"No tuned model solves an episode of {', '.join(unsolved)}; their rates are in `study.json`."
        yield ""
    yield from (f"- {name}: {meaning}" for name, meaning in _TEXTS["columns"].items())
    yield ""
    yield from _by_kind(variants, next(iter(rates)))
    yield from _by_seed(variants, next(iter(rates)))
    yield from _tunings(variants)
    yield from _circumstances(results)


def _questions(answers: Sequence[StudyAnswer]) -> Iterator[str]:
    """Each question: answered in a sentence where the title looks, and by figures for every benchmark."""
    yield "## Questions and answers"
    yield ""
    for question in dict.fromkeys(answer.question for answer in answers):
        mine = [answer for answer in answers if answer.question == question]
        yield f"**{question}** {_sentence(mine[0])}"
        yield ""
        yield f"| {label(mine[0].a)} minus {label(mine[0].b)}, points | {' | '.join(ASKED)} |"
        yield f"|---|{'--:|' * len(ASKED)}"
        for benchmark in dict.fromkeys(answer.benchmark for answer in mine):
            points = {answer.measure: _points(answer.difference) for answer in mine if answer.benchmark == benchmark}
            yield f"| {label(benchmark)} | {' | '.join(points.get(measure, '-') for measure in ASKED)} |"
        yield ""


def _sentence(answer: StudyAnswer) -> str:
    sentence: str = _TEXTS["answers"][answer.difference.verdict].format(
        benchmark=label(answer.benchmark),
        a=label(answer.a),
        of_a=f"{_whole(answer.of_a)}%",
        of_b=f"{_whole(answer.of_b)}%",
        difference=f"{_points(answer.difference)} points",
        needed=MIN_SEEDS,
    )
    return sentence


def _points(found: SeededDifference) -> str:
    """A difference in points with its interval; a star where it is claimed."""
    star = "*" if found.verdict in ("higher", "lower") else ""
    return f"{percent(found.rate, sign='+', digits=0)}{star}"


def _whole(rate: Rate) -> str:
    return "-" if rate.value is None else f"{100 * rate.value:.0f}"


def _benchmark(
    benchmark: str, of_variants: Mapping[str, Mapping[str, Rate]], variants: Mapping[str, Sequence[Result]]
) -> Iterator[str]:
    names = [measure.name for measure in MEASURES]
    yield f"## {label(benchmark).capitalize()}"
    yield ""
    yield f"| percent | seeds | {' | '.join(names)} | episodes |"
    yield f"|---|--:|{'--:|' * len(names)}--:|"
    for variant, measured in of_variants.items():
        if not measured["success"].n:
            continue
        seeds = len(variants[variant]) if _is_tuned(variants[variant]) else "-"
        cells = " | ".join(percent(measured[name], digits=0) for name in names)
        yield f"| {label(variant)} | {seeds} | {cells} | {count(measured['success'].n)} |"
    yield ""


def _by_kind(variants: Mapping[str, Sequence[Result]], benchmark: str) -> Iterator[str]:
    """Recovery from each kind of error on one benchmark."""
    found = {
        kind
        for models in variants.values()
        for model in models
        for outcome in model.outcomes
        if outcome.benchmark == benchmark
        for kind in outcome.recovered_by_kind
    }
    kinds = sorted(found)
    if not kinds:
        return
    yield f"## Recovery by kind of error on {label(benchmark)}"
    yield ""
    yield f"| percent (n errors) | {' | '.join(map(label, kinds))} |"
    yield f"|---|{'--:|' * len(kinds)}"
    for name, models in variants.items():
        rates = [seeded_rate(recoveries_of(models, benchmark, kind)) for kind in kinds]
        if any(rate.n for rate in rates):
            cells = (f"{percent(rate, digits=0)} ({count(rate.n)})" if rate.n else "-" for rate in rates)
            yield f"| {label(name)} | {' | '.join(cells)} |"
    yield ""


def _by_seed(variants: Mapping[str, Sequence[Result]], benchmark: str) -> Iterator[str]:
    """Success and recovery on one benchmark, model by model."""
    yield f"## Seed by seed: success and recovery on {label(benchmark)}"
    yield ""
    tuned = {name: models for name, models in variants.items() if _is_tuned(models)}
    seeds = sorted({model.card.seed for models in tuned.values() for model in models if model.card.seed is not None})
    yield f"| percent | {' | '.join(f'seed {seed}' for seed in seeds)} |"
    yield f"|---|{'--:|' * len(seeds)}"
    shown = [measure for measure in MEASURES if measure.name in ("success", "recovery")]
    for name, models in tuned.items():
        by_seed = {model.card.seed: model for model in models}
        cells = (_of_seed(by_seed[seed], benchmark, shown) if seed in by_seed else "-" for seed in seeds)
        yield f"| {label(name)} | {' | '.join(cells)} |"
    yield ""


def _of_seed(model: Result, benchmark: str, measures: Sequence[Measure]) -> str:
    return " / ".join(_whole(seeded_rate(counts_of([model], benchmark, measure))) for measure in measures)


def _tunings(variants: Mapping[str, Sequence[Result]]) -> Iterator[str]:
    """What each variant was tuned on, and how long: means over its seeds."""
    yield "## What they were tuned on"
    yield ""
    yield "| | trained turns | data set | games | passes | steps | tokens | trained tokens | validation loss |"
    yield "|---|---|---|--:|--:|--:|--:|--:|--:|"
    for name, models in variants.items():
        if not _is_tuned(models):
            continue
        cards = [model.card for model in models]
        losses = [card.validation_loss for card in cards if card.validation_loss is not None]
        sets = cards[0].data_set.removesuffix(f"-{cards[0].seed}")
        games, steps, tokens, trained = (
            count(round(sum(values) / len(cards)))
            for values in (
                [card.games for card in cards],
                [card.steps for card in cards],
                [card.tokens for card in cards],
                [card.trained_tokens for card in cards],
            )
        )
        passes = f"{sum(card.passes for card in cards) / len(cards):.1f}"
        loss = f"{sum(losses) / len(losses):.3f}" if losses else "-"
        figures = " | ".join((games, passes, steps, tokens, trained, loss))
        yield f"| {label(name)} | {label(cards[0].train_on)} | {sets} | {figures} |"
    yield ""


def _circumstances(results: Sequence[Result]) -> Iterator[str]:
    """What a reader must know of where the results come from."""
    machines = dict.fromkeys(result.card.machine for result in results)
    rules = results[0].card.rules
    yield "## How it was made"
    yield ""
    shown = ", ".join(f"{key} {value}" for key, value in rules.items() if isinstance(value, int | float | str))
    yield f"- The episodes: {shown}."
    yield f"- Processors: {'; '.join(machines)}."
    if (versions := len({result.card.code for result in results})) > 1:
        yield f"- The code that tunes and plays: {versions} versions; their results are taken together."
    yield ""


def _is_solved(rates: Mapping[str, Mapping[str, Rate]], variants: Mapping[str, Sequence[Result]]) -> bool:
    """Whether a tuned model solved an episode of a benchmark."""
    return any(measured["success"].value for name, measured in rates.items() if _is_tuned(variants[name]))


def _is_tuned(models: Sequence[Result]) -> bool:
    return tuple(model.card.seed for model in models) != NOT_TUNED


def _values(rates: Mapping[str, Mapping[str, Mapping[str, Rate]]], answers: Sequence[StudyAnswer]) -> dict[str, object]:
    """study.json: `{"rates": {benchmark: {variant: {measure: rate}}}, "answers": [{...}]}`."""
    return {
        "rates": {
            benchmark: {
                variant: {name: rate.model_dump() for name, rate in measured.items()}
                for variant, measured in of_variants.items()
            }
            for benchmark, of_variants in rates.items()
        },
        "answers": [
            {
                "question": answer.question, "benchmark": answer.benchmark, "measure": answer.measure,
                "a": answer.a, "b": answer.b, "difference": answer.difference.rate.model_dump(),
                "verdict": answer.difference.verdict,
            }
            for answer in answers
        ],
    }  # fmt: skip
