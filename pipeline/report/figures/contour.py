"""Picture of one target over the two parameters that matter most."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.figures.style import PAPER, figure, plain_ticks, scale
from pipeline.report.names import axis_label, parameter_name
from pipeline.report.tables import Contour
from pipeline.report.tables.frames import Floats


def draw_contour(table: Contour) -> Figure:
    """The surface as filled levels, over it the trials in the same colours."""
    drawn = figure(4.2)
    axes = drawn.add_subplot()
    levels = contour_levels(table)
    filled = axes.contourf(table.x_G, table.y_H, table.mean_HG, levels=levels, cmap=scale(), alpha=0.85)
    axes.contour(table.x_G, table.y_H, table.mean_HG, levels=levels, colors=PAPER, linewidths=0.5, linestyles="solid")
    axes.use_sticky_edges = False
    axes.scatter(table.x_N, table.y_N, c=table.value_N, s=26, cmap=scale(), vmin=levels[0], vmax=levels[-1],
                 edgecolors=PAPER, linewidths=0.8, zorder=3)  # fmt: skip
    for which, name, is_log in zip("xy", table.parameters, table.is_log, strict=True):
        if is_log:
            (axes.set_xscale if which == "x" else axes.set_yscale)("log")
            plain_ticks(axes, which)
        (axes.set_xlabel if which == "x" else axes.set_ylabel)(f"{parameter_name(name)}{' (log scale)' * is_log}")
    bar = drawn.colorbar(filled, ax=axes, pad=0.02, aspect=32, label=axis_label(table.target))
    bar.outline.set_visible(False)
    axes.grid(False)
    axes.margins(0.03)
    return drawn


def contour_levels(table: Contour) -> Floats:
    """Round values that hold the surface and the trials, evenly spaced; at least two."""
    low, high = value_limits(np.concatenate([table.mean_HG.ravel(), table.value_N]))
    levels = np.asarray(MaxNLocator(12).tick_values(low, high), dtype=np.float64)
    return levels if len(levels) > 1 else np.array([low, low + 1.0])


def value_limits(values: Floats) -> tuple[float, float]:
    """The ends of the colour scale."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
