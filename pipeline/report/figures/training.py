"""Pictures of training: what the frontier's trials went through, epoch by epoch."""

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.figures.style import figure
from pipeline.report.tables import TrainingCurves
from pipeline.report.words import significant

LABELS = {
    "val/reconstruction": "reconstruction\n(nats)",
    "val/kl": "KL (nats)",
    "train/kl_weight": "KL weight",
    "val/squared_error": "squared error",
}


def draw_training(table: TrainingCurves) -> Figure:
    """Each term by epoch, the KL weight under them and lower than they."""
    heights = [1.5 if name == "train/kl_weight" else 3.0 for name in table.terms]
    drawn = figure(0.55 * sum(heights) + 1.1)
    panels = drawn.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, metric in zip(panels, table.terms, strict=True):
        _term(axes, table, metric)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    drawn.align_ylabels(panels)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=4, handlelength=1.2, columnspacing=1.4)
    return drawn


def _term(axes: Axes, table: TrainingCurves, metric: str) -> None:
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(len(table.trials), 2)))
    for colour, trial in zip(colours, table.trials, strict=False):
        curve = table.curves[table.curves["trial"] == trial]
        axes.plot(curve["epoch"], curve[metric], color=colour, linewidth=1.4, label=_label(table, trial))
    axes.set_ylabel(LABELS[metric])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if metric == "train/kl_weight":
        axes.set_ylim(-0.08, 1.08)
        axes.set_yticks([0, 0.5, 1])


def _label(table: TrainingCurves, trial: int) -> str:
    beta = table.beta_by_trial[trial]
    return f"t{trial}" if math.isnan(beta) else f"t{trial}, β {significant(beta, 2)}"
