"""Picture of one target against each searched parameter."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures.style import FAINT, NORMAL, figure, plain_ticks
from pipeline.report.figures.texts import short, wrapped
from pipeline.report.names import metric_name, parameter_name
from pipeline.report.tables import Missing, Slice, StudyTables
from pipeline.report.tables.frames import Floats

MOST_SLICES = 12


def by_target(tables: StudyTables) -> dict[str, tuple[Slice, ...]]:
    """Slices of each target, the most important parameter first; of the AUROC, where it is known, before all."""
    matters = tables.importances
    order = {} if isinstance(matters, Missing) else {name: i for i, name in enumerate(matters.parameters)}
    found: dict[str, list[Slice]] = {}
    for table in sorted(tables.slices, key=lambda table: order.get(table.parameter, len(order))):
        found.setdefault(table.target, []).append(table)
    first = sorted(found, key=lambda target: "auroc" not in target)
    return {target: tuple(found[target]) for target in first}


def draw_slices(tables: Sequence[Slice]) -> Figure:
    """One target against each parameter; the frontier's trials in colour."""
    shown = tables[:MOST_SLICES]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    drawn = figure(1.75 * rows + 0.4)
    panels = drawn.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, table in zip(panels.flat, shown, strict=False):
        _slice(axes, table)
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    drawn.supylabel(metric_name(shown[0].target), fontsize=10)
    drawn.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2, handletextpad=0.3)
    return drawn


def _slice(axes: Axes, table: Slice) -> None:
    for on_frontier, colour, size, name in ((False, FAINT, 14, "finished"), (True, NORMAL, 18, "on the frontier")):
        some = table.frontier_N == on_frontier
        axes.scatter(spread(table)[some], table.y_N[some], s=size, color=colour, edgecolors="none", label=name)
    axes.set_xlabel(f"{short(parameter_name(table.parameter), 28)}{' (log)' if table.is_log else ''}", fontsize=9)
    axes.tick_params(labelsize=8)
    if table.choices is not None:
        names = [wrapped(short(choice), 9) for choice in table.choices]
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_xlim(-0.6, len(names) - 0.4)
    elif table.is_log:
        axes.set_xscale("log")
        plain_ticks(axes, "x")


def spread(table: Slice) -> Floats:
    """Places across; those of a choice are spread a little, always in the same way, so that none hides another."""
    if table.choices is None:
        return table.x_N
    return table.x_N + np.random.default_rng(0).uniform(-0.22, 0.22, len(table.x_N))
