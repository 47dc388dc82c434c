"""Pictures of the trade-off: where the trials lie, and the hypervolume."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.figures.style import CHOSEN, FAINT, GREY, INK, NORMAL, PAPER, figure, scale
from pipeline.report.names import axis_label, hypervolume_unit, metric_name
from pipeline.report.tables import HypervolumeHistory, Plane, Strip
from pipeline.report.tables.frames import Floats
from pipeline.report.words import number

# Parts of the axes where the legend may be, so that no line is named under it.
LEGEND = [(x, y) for x in (0.7, 0.8, 0.9, 1.0) for y in (0.84, 0.92, 1.0)]
LINE = "#dbe0e5"


def draw_plane(table: Plane, knee: int | None = None) -> Figure:
    """Every trial in the plane of two metrics, over lines of equal ELBO where there are such; a trial is the knee."""
    drawn = figure(4.9)
    axes = drawn.add_subplot()
    points = table.points
    axes.set(xlim=table.x, ylim=table.y, autoscale_on=False)
    axes.set(xlabel=axis_label(table.metrics[0]), ylabel=axis_label(table.metrics[1]))
    axes.grid(not table.has_elbo)
    if table.has_elbo:
        _equal_elbo(axes, table)
    _trials(axes, points, table.auroc_metric)
    if table.objectives_are_the_axes and points["frontier"].any():
        line = points[points["frontier"]].sort_values(["x", "y"])
        axes.plot(line["x"], line["y"], color=INK, linewidth=1.1, zorder=3, label="frontier")
    _champion(axes, points[points["champion"]])
    _knee(axes, points[points["trial"].eq(-1 if knee is None else knee)])
    if table.has_elbo and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")
    elif axes.get_legend_handles_labels()[0]:
        _legend_above(drawn)
    return drawn


def draw_strip(table: Strip) -> Figure:
    """The objective over the trials' numbers, with the best so far."""
    drawn = figure(3.6)
    axes = drawn.add_subplot()
    axes.set(ylim=table.y, xlabel="trial number", ylabel=axis_label(table.metric))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.margins(x=0.04)
    if len(table.best) > 1:
        axes.step(table.best["x"], table.best["y"], where="post", color=GREY, linewidth=1.1, label="best so far")
    _trials(axes, table.points, table.auroc_metric)
    _champion(axes, table.points[table.points["champion"]])
    if axes.get_legend_handles_labels()[0]:
        _legend_above(drawn)
    return drawn


def _legend_above(drawn: Figure) -> None:
    drawn.legend(loc="outside upper left", ncols=5, handletextpad=0.3, columnspacing=1.2)


def elbo_totals(table: Plane) -> list[float]:
    """Some negative ELBOs whose lines cross the view, nats."""
    (left, right), (bottom, top) = table.x, table.y
    return [float(total) for total in MaxNLocator(6).tick_values(left + bottom, right + top)]


def _equal_elbo(axes: Axes, table: Plane) -> None:
    """ELBO = -(reconstruction + KL), so equal ELBO is a straight line; each is named where there is most room."""
    (left, right), (bottom, top) = table.x, table.y
    taken = np.column_stack([table.points["x"], table.points["y"]])
    taken = np.vstack([(taken - [left, bottom]) / [right - left, top - bottom], LEGEND])
    along = np.linspace(0.03, 0.97, 48)
    for total in elbo_totals(table):
        axes.plot(table.x, [total - left, total - right], color=LINE, linewidth=0.9, zorder=0)
        line = np.column_stack([along, (total - left - along * (right - left) - bottom) / (top - bottom)])
        place = _roomiest(line, taken)
        if place is not None:
            x, y = np.array([left, bottom]) + place * [right - left, top - bottom]
            _name_line(axes, x, y, f"ELBO {number(-total, 0)}")


def _roomiest(line: Floats, taken: Floats) -> Floats | None:
    """The point of a line that is farthest from what is drawn, in parts of the axes; None where all is too near."""
    line = line[(line > 0.06).all(axis=1) & (line < 0.94).all(axis=1)]
    if not len(line):
        return None
    distance = np.linalg.norm(line[:, None] - taken[None], axis=2).min(axis=1)
    return np.asarray(line[distance.argmax()]) if distance.max() > 0.08 else None


def _name_line(axes: Axes, x: float, y: float, name: str) -> None:
    text = axes.text(x, y, name, rotation=-45, transform_rotates_text=True, rotation_mode="anchor", ha="center")
    text.set(fontsize=8, color=GREY, verticalalignment="bottom", zorder=1)


def _trials(axes: Axes, points: pd.DataFrame, auroc: str) -> None:
    for state, marker, colour in (("stopped", "x", FAINT), ("running", "+", GREY), ("waiting", "2", GREY)):
        some = points[points["state"].eq(state)]
        if len(some):
            axes.scatter(some["x"], some["y"], s=20, marker=marker, color=colour, linewidths=1, zorder=2,
                         label=state)  # fmt: skip
    finished = points[points["state"].eq("finished")]
    _infeasible(axes, finished[~finished["feasible"]])
    finished = finished[finished["feasible"]]
    known = np.isfinite(finished["auroc"])
    for on_frontier, size in ((False, 30), (True, 58)):
        some = finished[~known & finished["frontier"].eq(on_frontier)]
        axes.scatter(some["x"], some["y"], s=size, color=NORMAL, edgecolors=PAPER, linewidths=0.6, zorder=4)
    if known.any():
        _coloured(axes, finished[known], auroc)


def _infeasible(axes: Axes, points: pd.DataFrame) -> None:
    """By its shape alone, so that no colour has to be told from another."""
    if len(points):
        axes.scatter(points["x"], points["y"], s=30, marker="v", facecolors="none", edgecolors=INK, linewidths=0.9,
                     zorder=3, label="constraint violated")  # fmt: skip


def _coloured(axes: Axes, points: pd.DataFrame, auroc: str) -> None:
    sizes = np.where(points["frontier"], 58, 30)
    edges = np.where(points["frontier"], INK, PAPER)
    dots = axes.scatter(points["x"], points["y"], s=sizes, c=points["auroc"], cmap=scale(),
                        edgecolors=list(edges), linewidths=0.7, zorder=4)  # fmt: skip
    bar = axes.figure.colorbar(dots, ax=axes, pad=0.02, aspect=32, label=metric_name(auroc))
    bar.outline.set_visible(False)


def _champion(axes: Axes, points: pd.DataFrame) -> None:
    if points.empty:
        return
    axes.scatter(points["x"], points["y"], s=190, facecolors="none", edgecolors=CHOSEN, linewidths=1.8,
                 zorder=5, label=f"chosen: trial {points['trial'].iloc[0]}")  # fmt: skip


def _knee(axes: Axes, points: pd.DataFrame) -> None:
    if len(points):
        axes.scatter(points["x"], points["y"], s=170, marker="D", facecolors="none", edgecolors=INK, linewidths=1.0,
                     zorder=5, label="knee")  # fmt: skip


def draw_hypervolume(table: HypervolumeHistory) -> Figure:
    """Hypervolume after each finished trial."""
    drawn = figure(2.9)
    axes = drawn.add_subplot()
    axes.step(table.trial_N, table.hypervolume_N, where="post", color=NORMAL)
    axes.fill_between(table.trial_N, table.hypervolume_N, step="post", color=NORMAL, alpha=0.10, linewidth=0)
    axes.plot(table.trial_N[-1:], table.hypervolume_N[-1:], "o", color=NORMAL, markersize=5)
    unit = hypervolume_unit(table.reference)
    axes.set(xlabel="trial number", ylabel=f"hypervolume ({unit})" if unit else "hypervolume")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(lambda value, _: number(value, 0 if table.hypervolume_N.max() >= 5 else 2))
    return drawn
