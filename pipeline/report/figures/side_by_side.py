"""Picture of the choosing rules, the ensembles and the baseline side by side."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures.style import ANOMALY, CHOSEN, GREY, NORMAL, figure
from pipeline.report.names import detector_name
from pipeline.report.tables import Choice, SideBySide

# Whether a choice needs labels, as a colour and a mark that does without colours.
KINDS = {
    "needs labels": (ANOMALY, "s"),
    "needs no labels": (NORMAL, "o"),
    "needs no model": (GREY, "D"),
}


def draw_side_by_side(table: SideBySide) -> Figure:
    """A row each: a dot with its interval, a ring around the study's own, and a line where the baseline is."""
    drawn = figure(0.34 * len(table.choices) + 1.1)
    axes = drawn.add_subplot()
    for kind, (colour, marker) in KINDS.items():
        rows = [(-place, choice) for place, choice in enumerate(table.choices) if _kind(choice) == kind]
        if rows:
            _dots(axes, rows, kind, colour, marker)
    for place, choice in enumerate(table.choices):
        if choice.chosen:
            axes.scatter(choice.test_auroc.value, -place, s=150, facecolors="none", edgecolors=CHOSEN, linewidths=1.6,
                         zorder=4, label="the study’s rule")  # fmt: skip
        if choice.kind == "baseline":
            axes.axvline(choice.test_auroc.value, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks([-place for place in range(len(table.choices))],
                    [detector_name(choice.name)[:40] for choice in table.choices])  # fmt: skip
    axes.set(ylim=(0.6 - len(table.choices), 0.6), xlabel="test AUROC")
    axes.grid(False, axis="y")
    axes.margins(x=0.04)
    drawn.legend(loc="outside upper left", ncols=4, handletextpad=0.3, columnspacing=1.2)
    return drawn


def _kind(choice: Choice) -> str:
    if choice.kind == "baseline":
        return "needs no model"
    return "needs labels" if choice.needs_labels else "needs no labels"


def _dots(axes: Axes, rows: list[tuple[int, Choice]], kind: str, colour: str, marker: str) -> None:
    places = [place for place, _ in rows]
    areas = [choice.test_auroc for _, choice in rows]
    axes.hlines(places, [area.low for area in areas], [area.high for area in areas], color=colour, linewidth=1.4)
    axes.scatter(np.array([area.value for area in areas]), places, s=30, color=colour, marker=marker, zorder=3,
                 label=kind)  # fmt: skip
