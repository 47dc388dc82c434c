"""Pictures of the detection of anomalies: AUROC over the search, and the chosen model's scores and curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.report.figures.style import ANOMALY, CHOSEN, FAINT, GREY, INK, NORMAL, figure, plain_ticks
from pipeline.report.names import metric_name, parameter_name, score_label
from pipeline.report.tables import AurocSlice, Curves, Scores
from pipeline.report.words import interval, number


def draw_auroc(tables: Sequence[AurocSlice]) -> Figure:
    """Validation AUROC against each parameter, side by side."""
    drawn = figure(3.1)
    panels = drawn.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        _auroc(axes, table)
    panels[0].set_ylabel(metric_name(tables[0].metric).replace(" of ", "\nof "))
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper left", ncols=4, handletextpad=0.3, columnspacing=1.2)
    return drawn


def _auroc(axes: Axes, table: AurocSlice) -> None:
    points = table.points
    rest, members, champion = points[~points["frontier"]], points[points["frontier"]], points[points["champion"]]
    if len(table.trend) > 1:
        axes.plot(table.trend["value"], table.trend["auroc"], color=GREY, linewidth=1.2, zorder=2, label="median")
    axes.scatter(rest["value"], rest["auroc"], s=24, color=FAINT, zorder=1, label="finished", edgecolors="none")
    axes.scatter(
        members["value"], members["auroc"], s=30, color=NORMAL, zorder=3, label="on the frontier", edgecolors="none"
    )
    if len(champion):
        axes.scatter(champion["value"], champion["auroc"], s=130, facecolors="none", edgecolors=CHOSEN, linewidths=1.8,
                     zorder=4, label="chosen")  # fmt: skip
    axes.set_xlabel(f"{parameter_name(table.parameter)}{' (log scale)' if table.log else ''}")
    if table.log:
        axes.set_xscale("log")
        plain_ticks(axes, "x")


def draw_scores(table: Scores) -> Figure:
    """Shares of normal and anomalous test examples by score, with the thresholds."""
    drawn = figure(3.3)
    axes = drawn.add_subplot()
    low, high = table.view
    bins = np.linspace(low, high, 41).tolist()
    for values, colour, name in ((table.normal_N, NORMAL, "normal"), (table.anomaly_N, ANOMALY, "anomaly")):
        if len(values):
            shown, share = np.clip(values, low, high), np.full(len(values), 1 / len(values))
            label = f"{name} ({len(values):,} test examples)"
            axes.hist(shown, bins=bins, weights=share, color=colour, alpha=0.22)
            axes.hist(shown, bins=bins, weights=share, color=colour, histtype="step", linewidth=1.4, label=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlim=(low, high), xlabel=f"anomaly score: {score_label(table.score)}", ylabel="share of the class")
    _thresholds(axes, table)
    drawn.legend(loc="outside upper left", ncols=2)
    return drawn


def _thresholds(axes: Axes, table: Scores) -> None:
    axes.set_ylim(top=axes.get_ylim()[1] * 1.12)
    values = table.thresholds[["percentile", "threshold"]].to_numpy() if len(table.thresholds) else np.empty((0, 2))
    for percentile, threshold in values[(values[:, 1] > table.view[0]) & (values[:, 1] < table.view[1])]:
        axes.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        text = axes.annotate(f"{percentile:g} %", (threshold, 1), xycoords=("data", "axes fraction"))
        text.set(position=(3, -2), fontsize=8, verticalalignment="top", rotation=90)
        text.set_anncoords("offset points")


def draw_curves(table: Curves) -> Figure:
    """ROC and precision-recall side by side, each with what a score that knows nothing would give."""
    drawn = figure(3.5)
    left, right = drawn.subplots(1, 2)
    _unit_square(left, "false-positive rate", "true-positive rate", f"AUROC {interval(table.auroc, 2)}")
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    left.text(0.72, 0.69, "chance", fontsize=8, color=GREY, rotation=45, rotation_mode="anchor", va="top", ha="center")
    left.plot(table.roc["false_positive_rate"], table.roc["true_positive_rate"], color=NORMAL)
    _unit_square(right, "recall", "precision", f"AP {interval(table.average_precision, 2)}")
    right.axhline(table.prevalence, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    right.text(0.02, table.prevalence + 0.015, f"prevalence {number(table.prevalence, 2)}", fontsize=8, color=GREY)
    right.plot(table.precision_recall["recall"], table.precision_recall["precision"], color=NORMAL)
    return drawn


def _unit_square(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y, title=title)
    axes.set_box_aspect(1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
