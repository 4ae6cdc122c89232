"""The report's figures: drawn without a display, the same bytes for the same numbers."""

import csv
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agentrefine.files import atomic_write
from agentrefine.params.tuning import BASE
from agentrefine.report_inputs import Bar, CurvePoint, ProgressPoint

COLOURS = {
    BASE: "#8C8C8C",
    "refinement": "#0072B2",
    "with_erroneous_loss": "#D55E00",
    "without_refinement_loss": "#009E73",
    "without_refinement_data": "#CC79A7",
}
"""One colour per model, distinct also to colour-blind readers (Okabe and Ito); grey is the base."""

STYLE: dict[str, Any] = {
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "xtick.color": "#222222",
    "ytick.color": "#222222",
}
BAR_LABELS_UP_TO = 3


def success_bars(path: Path, bars: Sequence[Bar]) -> None:
    """Success rates per benchmark, one bar a model, with 95% intervals."""
    benchmarks, models = _order(bar.benchmark for bar in bars), _order(bar.model for bar in bars)
    found = {(bar.benchmark, bar.model): bar for bar in bars}
    width = 0.8 / len(models)
    with _figure(path, (max(4.2, 0.9 + len(benchmarks) * (0.55 + 0.42 * len(models))), 3.1)) as figure:
        axes = figure.subplots()
        for index, model in enumerate(models):
            shown = [(place, found[name, model]) for place, name in enumerate(benchmarks) if (name, model) in found]
            places = [place + (index - (len(models) - 1) / 2) * width for place, _ in shown]
            values = [100 * bar.value for _, bar in shown]
            below = [100 * (bar.value - bar.low) for _, bar in shown]
            above = [100 * (bar.high - bar.value) for _, bar in shown]
            axes.bar(places, values, 0.9 * width, color=_colour(model, models), label=label(model))
            axes.errorbar(
                places, values, [below, above], fmt="none", ecolor="#333333", elinewidth=0.9, capsize=2.5, capthick=0.9
            )
            if len(models) <= BAR_LABELS_UP_TO:
                for place, value, reach in zip(places, values, above, strict=True):
                    axes.text(place, value + reach + 1.5, f"{value:.0f}", ha="center", va="bottom", fontsize=8)
        axes.set_xticks(range(len(benchmarks)), [_wrapped(name) for name in benchmarks])
        axes.set_xlim(-0.55, len(benchmarks) - 0.45)
        axes.set_ylim(0, 108)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("success rate (%)")
        _legend(figure, axes, len(models))


def progress_curves(path: Path, points: Sequence[ProgressPoint]) -> None:
    """Mean progress over the steps of an episode: one panel a benchmark, one line a model."""
    benchmarks, models = _order(point.benchmark for point in points), _order(point.model for point in points)
    columns = min(4, len(benchmarks))
    rows = -(-len(benchmarks) // columns)
    with _figure(path, (max(3.6, 2.0 * columns + 0.5), 2.0 * rows + 0.6)) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, benchmark in zip(grid, benchmarks, strict=False):
            for model in models:
                line = [p for p in points if p.benchmark == benchmark and p.model == model]
                steps, progress = [p.step for p in line], [100 * p.progress for p in line]
                axes.plot(steps, progress, color=_colour(model, models), linewidth=1.8, label=label(model))
            axes.set_title(label(benchmark))
            axes.set_ylim(0, 102)
            axes.set_yticks(range(0, 101, 25))
            axes.set_xlim(left=0)
        for axes in grid[len(benchmarks) :]:
            axes.set_visible(False)
        figure.supxlabel("step of the episode", fontsize=9)
        grid[0].set_ylabel("progress rate (%)")
        _legend(figure, grid[0], len(models))


def loss_curves(path: Path, points: Sequence[CurvePoint], validation: Sequence[CurvePoint]) -> None:
    """Loss over tokens read: in training, faint, with its running mean, and on the validation samples, dotted."""
    models = _order(point.model for point in points)
    unit, divisor = ("million", 1e6) if max(p.tokens for p in points) >= 1e6 else ("thousand", 1e3)
    with _figure(path, (4.8, 3.0)) as figure:
        axes = figure.subplots()
        for model in models:
            line = [point for point in points if point.model == model]
            tokens = [point.tokens / divisor for point in line]
            colour = _colour(model, models)
            axes.plot(tokens, [point.loss for point in line], color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(tokens, _running_mean([point.loss for point in line]), color=colour, label=label(model))
            looks = [point for point in validation if point.model == model]
            axes.plot([p.tokens / divisor for p in looks], [p.loss for p in looks], "o:", color=colour, markersize=3)
        axes.set_xlabel(f"tokens read ({unit})")
        axes.set_ylabel("loss (nats per trained token)")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        _legend(figure, axes, len(models))


def write_table(path: Path, rows: Sequence[Bar] | Sequence[ProgressPoint] | Sequence[CurvePoint]) -> None:
    """A figure's numbers as CSV, which `dvc plots` draws and compares."""
    with atomic_write(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows([[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows])


def label(name: str) -> str:
    """A model's or benchmark's name as people read it."""
    return name.replace("_", " ")


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({**mpl.rcParamsDefault, **STYLE, "backend": "agg"}):
        figure = plt.figure(figsize=size, layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Software": None})
        plt.close(figure)


def _legend(figure: Figure, axes: Axes, models: int) -> None:
    if models > 1:
        handles, names = axes.get_legend_handles_labels()
        fitting = max(1, int(figure.get_figwidth() / 1.9))
        figure.legend(handles, names, loc="outside upper left", ncols=min(models, fitting), handlelength=1.3)


def _colour(model: str, models: Sequence[str]) -> str:
    """A known model's colour, the same in every figure; any other gets a colour by its place."""
    spare: Mapping[str, str] = {name: f"C{place}" for place, name in enumerate(models)}
    return COLOURS.get(model, spare[model])


def _order(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _wrapped(name: str) -> str:
    return textwrap.fill(label(name), 12)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Mean of a window around each value, a twentieth of the curve wide and shorter at its ends."""
    reach = len(values) // 40
    windows = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    return [sum(window) / len(window) for window in windows]
