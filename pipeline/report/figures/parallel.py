"""Picture of every finished trial as a line over its parameters and what came of them."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from pipeline.report.figures.contour import value_limits
from pipeline.report.figures.style import GREY, PAPER, figure, scale
from pipeline.report.figures.texts import axis_name, short, wrapped
from pipeline.report.names import metric_name
from pipeline.report.tables import Parallel
from pipeline.report.tables.frames import Floats
from pipeline.report.words import significant

# Where a line runs that has no value on an axis, in parts of the axes' height.
ABSENT = -0.12


def draw_parallel(table: Parallel) -> Figure:
    """An upright axis a parameter or metric, a line a trial; the frontier's thicker and on top."""
    drawn = figure(4.2)
    axes = drawn.add_subplot()
    height_NA = heights(table)
    places = np.arange(len(table.axes), dtype=np.float64)
    low, high = value_limits(table.colour_N)
    for on_frontier, width, alpha in ((False, 0.7, 0.35), (True, 1.5, 0.95)):
        some = table.frontier_N == on_frontier
        paths = [np.column_stack([places, row]) for row in height_NA[some]]
        lines = LineCollection(paths, cmap=scale(), linewidths=width, alpha=alpha, zorder=2 + on_frontier)
        lines.set_array(table.colour_N[some])
        lines.set_clim(low, high)
        axes.add_collection(lines)
    bar = drawn.colorbar(lines, ax=axes, pad=0.02, aspect=32, label=metric_name(table.colour_metric))
    bar.outline.set_visible(False)
    _upright(axes, table, bool(np.isnan(table.values_NA).any()))
    return drawn


def heights(table: Parallel) -> Floats:
    """Places on the axes from 0 at the bottom to 1 at the top, ABSENT where a trial has no value."""
    columns = [_height(table.values_NA[:, i], *_ends(table, i)) for i in range(len(table.axes))]
    return np.where(np.isfinite(stacked := np.column_stack(columns)), stacked, ABSENT)


def _ends(table: Parallel, place: int) -> tuple[float, float, bool]:
    axis = table.axes[place]
    return axis.low, axis.high, axis.is_log


def _height(value_N: Floats, low: float, high: float, is_log: bool) -> Floats:
    if is_log:
        value_N, low, high = np.log(np.where(value_N > 0, value_N, np.nan)), math.log(low), math.log(high)
    return (value_N - low) / (high - low) if high > low else np.where(np.isfinite(value_N), 0.5, np.nan)


def _upright(axes: Axes, table: Parallel, some_absent: bool) -> None:
    size = len(table.axes)
    for place, axis in enumerate(table.axes):
        axes.axvline(place, color=GREY, linewidth=0.8, zorder=1, ymin=0, ymax=1)
        for height, text in tick_texts(axis.choices, axis.low, axis.high):
            box = {"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
            axes.text(place + 0.04, height, text, fontsize=7, va="center", bbox=box, zorder=5)
    names = [wrapped(short(axis_name(axis.name), 40), 14) for axis in table.axes]
    axes.set_xticks(
        range(size), names, fontsize=7.5, rotation=0 if size < 8 else 30, ha="center" if size < 8 else "right"
    )
    axes.set(xlim=(-0.1, size - 0.6), ylim=(ABSENT - 0.05 if some_absent else -0.05, 1.05))
    axes.set_yticks([ABSENT] if some_absent else [], ["none"] if some_absent else [])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def tick_texts(choices: tuple[str, ...] | None, low: float, high: float) -> list[tuple[float, str]]:
    """Heights and names: of every choice, or of a number's two ends."""
    if choices is None:
        return [(0.0, significant(low)), (1.0, significant(high))] if high > low else [(0.5, significant(low))]
    top = max(len(choices) - 1, 1)
    return [(place / top if len(choices) > 1 else 0.5, short(name, 12)) for place, name in enumerate(choices)]
