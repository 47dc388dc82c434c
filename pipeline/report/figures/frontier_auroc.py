"""Picture of what detection costs: AUROC along the frontier, and of all finished trials."""

import numpy as np
from matplotlib.figure import Figure

from pipeline.report.figures.style import CHOSEN, FAINT, NORMAL, figure
from pipeline.report.names import axis_label, metric_name
from pipeline.report.tables import FrontierAuroc


def draw_frontier_auroc(table: FrontierAuroc) -> Figure:
    """On the left the frontier on test with intervals, on the right all finished trials on validation."""
    drawn = figure(3.3)
    panels = drawn.subplots(1, 2 if len(table.test) else 1, sharex=True, squeeze=False)[0]
    if len(table.test):
        test = table.test
        ends = np.abs(test[["low", "high"]].to_numpy().T - test["auroc"].to_numpy())
        panels[0].errorbar(test["across"], test["auroc"], yerr=np.nan_to_num(ends), fmt="o", markersize=4.5,
                           color=NORMAL, elinewidth=1.2, linewidth=0, zorder=3)  # fmt: skip
        panels[0].set_ylabel("test AUROC, 95 % interval")
    for on_frontier, colour, name in ((False, FAINT, "finished"), (True, NORMAL, "on the frontier")):
        some = table.validation[table.validation["frontier"].eq(on_frontier)]
        panels[-1].scatter(some["across"], some["auroc"], s=24, color=colour, edgecolors="none", label=name)
    panels[-1].set_ylabel(metric_name(table.validation_metric).replace(" of ", "\nof "))
    for axes, rows in zip(panels, (table.test, table.validation)[-len(panels) :], strict=True):
        chosen = rows[rows["champion"]]
        axes.scatter(chosen["across"], chosen["auroc"], s=130, facecolors="none", edgecolors=CHOSEN, linewidths=1.8,
                     zorder=4, label="chosen" if len(chosen) else "")  # fmt: skip
        axes.set_xlabel(axis_label(table.across).replace(" (", "\n("))
    drawn.legend(*panels[-1].get_legend_handles_labels(), loc="outside upper left", ncols=3, handletextpad=0.3)
    return drawn
