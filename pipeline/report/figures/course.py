"""Picture of the course of training: ELBO and active units of the frontier's trials, with the KL weight under them."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.figures.style import figure
from pipeline.report.tables import Course
from pipeline.report.tables.frames import Floats


def course_rows(table: Course) -> list[tuple[str, Floats]]:
    """What is drawn by epoch, from the top, without what no trial measured."""
    rows = [
        ("ELBO (nats)", table.elbo_TE),
        ("active units", table.active_units_TE),
        ("KL weight", table.kl_weight_TE),
    ]
    return [(name, values_TE) for name, values_TE in rows if np.isfinite(values_TE).any()]


def draw_course(table: Course) -> Figure:
    """A panel a quantity, a line a trial, dark at the end of the frontier where the first objective is best."""
    rows = course_rows(table)
    heights = [1.5 if name == "KL weight" else 3.0 for name, _ in rows]
    drawn = figure(0.5 * sum(heights) + 1.1)
    panels = drawn.subplots(len(rows), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(len(table.trial_T), 2)))
    for axes, (name, values_TE) in zip(panels, rows, strict=True):
        for colour, trial, value_E in zip(colours, table.trial_T, values_TE, strict=False):
            axes.plot(table.epoch_E, value_E, color=colour, linewidth=1.4, label=f"t{trial}")
        axes.set_ylabel(name)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=name == "active units"))
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    drawn.align_ylabels(panels)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=6, handlelength=1.2)
    return drawn
