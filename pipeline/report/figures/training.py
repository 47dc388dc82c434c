"""Pictures of training: what the frontier's trials went through, epoch by epoch."""

import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.figures.style import figure
from pipeline.report.tables import TrainingCurves
from pipeline.report.words import significant

PANELS = (
    ("val/reconstruction", "reconstruction\n(nats)"),
    ("val/kl", "KL (nats)"),
    ("train/kl_weight", "KL weight"),
)


def draw_training(table: TrainingCurves) -> Figure:
    """Validation reconstruction and KL by epoch, and the KL weight under them."""
    drawn = figure(5.2)
    panels = drawn.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.5])
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(len(table.trials), 2)))
    for axes, (metric, label) in zip(panels, PANELS, strict=True):
        for colour, trial in zip(colours, table.trials, strict=False):
            curve = table.curves[table.curves["trial"] == trial]
            axes.plot(curve["epoch"], curve[metric], color=colour, linewidth=1.4, label=_label(table, trial))
        axes.set_ylabel(label)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    panels[2].set_ylim(-0.08, 1.08)
    panels[2].set_yticks([0, 0.5, 1])
    panels[2].set_xlabel("epoch")
    panels[2].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    drawn.align_ylabels(panels)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=4, handlelength=1.2, columnspacing=1.4)
    return drawn


def _label(table: TrainingCurves, trial: int) -> str:
    beta = table.beta_by_trial[trial]
    return f"t{trial}" if math.isnan(beta) else f"t{trial}, β {significant(beta, 2)}"
