"""Picture of which parameters mattered."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.report.figures.style import INK, NORMAL, figure
from pipeline.report.figures.texts import short, wrapped
from pipeline.report.names import metric_name, parameter_name
from pipeline.report.tables import Importances
from pipeline.report.words import percent


def draw_importances(table: Importances) -> Figure:
    """A panel a target, a bar a parameter, the most important on average on top."""
    size = len(table.parameters)
    drawn = figure(0.3 * size + 1.0)
    panels = drawn.subplots(1, len(table.targets), sharey=True, squeeze=False)[0]
    for axes, metric, share_P in zip(panels, table.targets, table.share_PT.T, strict=True):
        known_P = np.nan_to_num(share_P)
        axes.barh(range(size), known_P, color=NORMAL, height=0.62)
        for place, share in enumerate(share_P):
            text = percent(share) if math.isfinite(share) else "too few"
            axes.text(known_P[place], place, f" {text}", va="center", fontsize=8, color=INK)
        axes.set_title(wrapped(metric_name(metric), 44 // len(table.targets)), fontsize=8.5)
        axes.set(xlim=(0, 1.3 * max(known_P.max(), 0.1)), ylim=(size - 0.4, -0.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(False, axis="y")
    panels[0].set_yticks(range(size), [short(parameter_name(name), 24) for name in table.parameters])
    return drawn
