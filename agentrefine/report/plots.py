"""The report's figures: drawn without a display, the same bytes for the same numbers."""

import csv
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from agentrefine.files import atomic_write, packaged_text
from agentrefine.report.figures import Bar, Difference, KindBar, LossRow, PerturbationBar, Row, StepPoint, label
from agentrefine.tuning.results import ValidationPoint

_LOOK = yaml.safe_load(packaged_text("agentrefine.report", "plots.yaml"))
"""`colours` of the models and `style`, matplotlib's settings."""

PANELS_PER_ROW = 4
"""How many benchmarks the figure of the steps shows side by side."""

COLUMNS = {"perturbation": "wording"}
"""The name in a CSV file where it is not that of the field."""

LABEL_CHARACTERS = 18
"""Characters in each line of a benchmark's name, at most."""


def rate_bars(path: Path, bars: Sequence[Bar], name: str) -> None:
    """A rate in percent, one bar a model under each benchmark's name, with 95% intervals."""
    benchmarks, models = _order(bar.benchmark for bar in bars), _order(bar.model for bar in bars)
    with _figure(path, (6.2, 0.8 + len(benchmarks) * (0.16 + 0.19 * len(models)))) as figure:
        axes = figure.subplots()
        for bar in bars:
            place = _place(benchmarks.index(bar.benchmark), models.index(bar.model), len(models))
            _share_bar(axes, place, bar, 0.72 / len(models), _colour(bar.model, models))
        _names_down(axes, benchmarks)
        _percent_across(axes, name)
        _legend(figure, models)


def step_curves(path: Path, points: Sequence[StepPoint]) -> None:
    """Progress (with its interval) and success (dashed) over the steps: one panel a benchmark, one colour a model."""
    benchmarks, models = _order(point.benchmark for point in points), _order(point.model for point in points)
    columns = min(PANELS_PER_ROW, len(benchmarks))
    rows = -(-len(benchmarks) // columns)
    with _figure(path, (max(5.2, 2.0 * columns + 0.5), 1.8 * rows + 1.0)) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, benchmark in zip(grid, benchmarks, strict=False):
            for model in models:
                line = [p for p in points if p.benchmark == benchmark and p.model == model]
                steps, colour = [p.step for p in line], _colour(model, models)
                low, high = [100 * p.progress_low for p in line], [100 * p.progress_high for p in line]
                axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(steps, [100 * p.progress for p in line], color=colour, linewidth=1.8)
                axes.plot(steps, [100 * p.success for p in line], "--", color=colour, linewidth=1.0)
            axes.set_title(label(benchmark))
            axes.set_ylim(0, 102)
            axes.set_yticks(range(0, 101, 25))
            axes.set_xlim(left=0)
            axes.locator_params(axis="x", integer=True)
        for axes in grid[len(benchmarks) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(benchmarks) - columns) : len(benchmarks)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("step of the episode", fontsize=9)
        figure.supylabel("progress (%)", fontsize=9)
        _legend(figure, models)


def perturbation_bars(path: Path, bars: Sequence[PerturbationBar]) -> None:
    """Success under each perturbation with its 95% interval, and mean and standard deviation: one panel a benchmark."""
    benchmarks, models = _order(bar.benchmark for bar in bars), _order(bar.model for bar in bars)
    perturbations = max(
        len({bar.perturbation for bar in bars if bar.benchmark == benchmark}) for benchmark in benchmarks
    )
    size = (max(4.4, 1.0 + (perturbations + 1) * (0.35 + 0.25 * len(models))), 0.5 + 2.3 * len(benchmarks))
    with _figure(path, size) as figure:
        for axes, benchmark in zip(figure.subplots(len(benchmarks), squeeze=False).flatten(), benchmarks, strict=True):
            shown = [bar for bar in bars if bar.benchmark == benchmark]
            names = _order(bar.perturbation for bar in shown)
            width = 0.72 / len(models)
            for bar in shown:
                place = _place(names.index(bar.perturbation), models.index(bar.model), len(models))
                axes.bar(place, 100 * bar.value, width, color=_colour(bar.model, models))
                _whisker(axes, place, bar.value, bar.low, bar.high, upright=True)
            for model, bar in {bar.model: bar for bar in shown}.items():
                place, colour = _place(len(names), models.index(model), len(models)), _colour(model, models)
                axes.bar(place, 100 * bar.mean, width, color="white", edgecolor=colour, hatch="////", linewidth=1)
                _whisker(axes, place, bar.mean, bar.mean - bar.std, bar.mean + bar.std, upright=True)
                text = f"{100 * bar.mean:.0f}\n±{100 * bar.std:.0f}"
                axes.text(place, min(100, 100 * (bar.mean + bar.std)) + 2, text, ha="center", va="bottom", fontsize=7)
            axes.axvline(len(names) - 0.5, color="#999999", linewidth=0.8)
            axes.set_xticks(range(len(names) + 1), [*(_wrapped(name, 12) for name in names), "mean ± std"])
            axes.set_title(label(benchmark))
            axes.set_xlim(-0.55, len(names) + 0.55)
            axes.set_ylim(0, 112)
            axes.set_yticks(range(0, 101, 25))
            axes.set_ylabel("success rate (%)")
        _legend(figure, models)


def kind_bars(path: Path, bars: Sequence[KindBar]) -> None:
    """Recovery after each kind of error with its 95% interval: one panel a benchmark, one bar a model."""
    benchmarks, models = _order(bar.benchmark for bar in bars), _order(bar.model for bar in bars)
    kinds = {name: sorted({bar.kind for bar in bars if bar.benchmark == name}) for name in benchmarks}
    heights = [0.4 + len(found) * (0.16 + 0.19 * len(models)) for found in kinds.values()]
    with _figure(path, (6.2, 0.8 + sum(heights))) as figure:
        grid = figure.subplots(len(benchmarks), sharex=True, squeeze=False, height_ratios=heights).flatten()
        for axes, (benchmark, names) in zip(grid, kinds.items(), strict=True):
            for bar in (bar for bar in bars if bar.benchmark == benchmark):
                place = _place(names.index(bar.kind), models.index(bar.model), len(models))
                _share_bar(axes, place, bar, 0.72 / len(models), _colour(bar.model, models))
            _names_down(axes, names)
            axes.set_title(label(benchmark))
        _percent_across(grid[-1], "recovery rate")
        _legend(figure, models)


def difference_points(path: Path, points: Sequence[Difference]) -> None:
    """Success and progress of each model minus those of the model it is compared with, with 95% intervals.

    A filled point is a verdict `better` or `worse`; verdicts are about success only.
    """
    benchmarks, models = _order(point.benchmark for point in points), _order(point.model for point in points)
    against = _order(point.against for point in points)
    left = min(-0.1, *(min(point.low, point.progress_low) for point in points)) - 0.05
    right = max(0.1, *(max(point.high, point.progress_high) for point in points)) + 0.05
    fields = {
        "success": attrgetter("value", "low", "high"),
        "progress": attrgetter("progress", "progress_low", "progress_high"),
    }
    with _figure(path, (7.4, 1.0 + len(benchmarks) * (0.16 + 0.19 * len(models)))) as figure:
        for axes, (name, interval) in zip(figure.subplots(1, 2, sharey=True), fields.items(), strict=True):
            for point in points:
                place = _place(benchmarks.index(point.benchmark), models.index(point.model), len(models))
                colour = _colour(point.model, [*against, *models])
                value, low, high = interval(point)
                axes.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.6)
                decided = name == "success" and point.verdict in ("better", "worse")
                face = colour if decided else "white"
                axes.plot(100 * value, place, "o", color=colour, markerfacecolor=face, markersize=5)
            _names_down(axes, benchmarks)
            axes.axvline(0, color="#555555", linewidth=0.9)
            axes.set_xlim(100 * left, 100 * right)
            axes.set_xlabel(f"{name}: points above {', '.join(map(label, against))}")
        _legend(figure, models, before=against)


def loss_curves(path: Path, rows: Sequence[LossRow], validation: Mapping[str, Sequence[ValidationPoint]]) -> None:
    """Loss over tokens read: in training, faint, with its running mean, and on the validation samples, dotted."""
    models = _order(row.model for row in rows)
    unit, divisor = ("million", 1e6) if max(row.tokens for row in rows) >= 1e6 else ("thousand", 1e3)
    with _figure(path, (4.8, 3.0)) as figure:
        axes = figure.subplots()
        for model in models:
            line = [row for row in rows if row.model == model]
            tokens, losses = [row.tokens / divisor for row in line], [row.loss for row in line]
            colour = _colour(model, models)
            axes.plot(tokens, losses, color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(tokens, _running_mean(losses), color=colour)
            looks = validation[model]
            axes.plot([p.tokens / divisor for p in looks], [p.loss for p in looks], "o:", color=colour, markersize=3)
        axes.set_xlabel(f"tokens read ({unit})")
        axes.set_ylabel("loss (nats per trained token)")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        _legend(figure, models)


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """A figure's numbers as CSV."""
    with atomic_write(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS.get(field, field) for field in rows[0]._fields)
        writer.writerows([[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows])


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({**mpl.rcParamsDefault, **_LOOK["style"], "backend": "agg"}):
        figure = plt.figure(figsize=size, layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)


def _legend(figure: Figure, models: Sequence[str], before: Sequence[str] = ()) -> None:
    """The models' colours above the figure; `before` are models that stand before them elsewhere."""
    if len(models) > 1 or before:
        handles = [Patch(color=_colour(model, [*before, *models]), label=label(model)) for model in models]
        column = 0.55 + 0.07 * max(map(len, models))  # inches: the patch, and letters of the legend's size
        fitting = max(1, int(figure.get_figwidth() / column))
        figure.legend(handles=handles, loc="outside upper left", ncols=min(len(models), fitting), handlelength=1.3)


def _place(group: int, member: int, members: int) -> float:
    """Where a bar stands: groups are one apart, their members side by side around it."""
    return group + (member - (members - 1) / 2) * 0.8 / members


def _whisker(axes: Axes, place: float, value: float, low: float, high: float, *, upright: bool = False) -> None:
    """An interval around a bar's end, from shares to percent."""
    reach = [[100 * (value - low)], [100 * (high - value)]]
    line: dict[str, Any] = {"fmt": "none", "ecolor": "#333333", "elinewidth": 0.9, "capsize": 2.2, "capthick": 0.9}
    line["yerr" if upright else "xerr"] = reach
    axes.errorbar(*(([place], [100 * value]) if upright else ([100 * value], [place])), **line)


def _share_bar(axes: Axes, place: float, bar: Bar | KindBar, height: float, colour: str) -> None:
    """A share in percent from left to right, with its interval and its value beside it."""
    axes.barh(place, 100 * bar.value, height, color=colour)
    _whisker(axes, place, bar.value, bar.low, bar.high)
    axes.text(100 * bar.high + 1.5, place, f"{100 * bar.value:.0f}", ha="left", va="center", fontsize=8)


def _percent_across(axes: Axes, name: str) -> None:
    """A scale for shares in percent and their values beside them."""
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(f"{name} (%)")


def _names_down(axes: Axes, names: Sequence[str]) -> None:
    """Benchmarks or kinds of error from top to bottom, and a grid across the values."""
    axes.set_yticks(range(len(names)), [_wrapped(name, LABEL_CHARACTERS) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")


def _colour(model: str, models: Sequence[str]) -> str:
    """A known model's colour, the same in every figure; any other gets a colour by its place."""
    return str(_LOOK["colours"].get(model, f"C{models.index(model)}"))


def _order(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _wrapped(name: str, width: int) -> str:
    return textwrap.fill(label(name), width)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Mean of a window around each value, a twentieth of the curve wide and shorter at its ends."""
    reach = len(values) // 40
    windows = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    return [sum(window) / len(window) for window in windows]
