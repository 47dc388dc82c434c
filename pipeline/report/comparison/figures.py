"""Pictures of studies beside each other: a colour, a mark and a kind of line for each."""

from collections.abc import Callable
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.report.comparison import prose
from pipeline.report.comparison.tables import Comparison, OneStudy
from pipeline.report.figures import Panel
from pipeline.report.figures.style import GREY, figure, png
from pipeline.report.names import axis_label, hypervolume_unit
from pipeline.report.tables.frames import Missing, numbers
from pipeline.report.tables.frontier import HypervolumeHistory
from pipeline.report.words import Words

# Okabe and Ito's, without their yellow, which white paper swallows; a mark and a line each for who sees no colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1f2933")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
LONGEST_NAME = 32


class Look(NamedTuple):
    """How one study is drawn."""

    colour: str
    mark: str
    line: str


def panels(table: Comparison) -> dict[str, Panel]:
    """All figures of a comparison, by name."""
    drawn = (
        _panel("frontiers", prose.why_no_plane(table), lambda: draw_frontiers(table), prose.frontiers(table)),
        _panel("hypervolume", prose.why_no_volume(table), lambda: draw_hypervolumes(table), prose.hypervolumes(table)),
        _panel("chosen", prose.why_no_auroc(table), lambda: draw_chosen(table), prose.chosen(table)),
    )
    return {panel.name: panel for panel in drawn}


def _panel(name: str, missing: str, draw: Callable[[], Figure], words: Words) -> Panel:
    return Panel(name=name, png=None if missing else png(draw), words=words, missing=missing)


def looks(table: Comparison) -> list[tuple[OneStudy, Look]]:
    """Each study with its look, which no two of the first 56 share."""
    styles = islice(zip(cycle(COLOURS), cycle(MARKS), cycle(LINES)), len(table.studies))
    return [(study, Look(*style)) for study, style in zip(table.studies, styles, strict=True)]


def draw_frontiers(table: Comparison) -> Figure:
    """The frontiers over each other, in the plane of the first two objectives; what nobody dominates is filled."""
    drawn = figure(4.9)
    axes = drawn.add_subplot()
    first, second = list(table.objectives)[:2]
    for study, look in looks(table):
        x, y = numbers(study.frontier, first), numbers(study.frontier, second)
        axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.2, zorder=2)
        is_joint = study.frontier["joint"].to_numpy(np.bool_)
        axes.scatter(x[~is_joint], y[~is_joint], s=28, marker=look.mark, facecolors="none", edgecolors=look.colour,
                     linewidths=1.0, zorder=3)  # fmt: skip
        axes.scatter(x[is_joint], y[is_joint], s=34, marker=look.mark, color=look.colour, zorder=4)
        _in_legend(axes, study, look)
    axes.set(xlabel=axis_label(first), ylabel=axis_label(second))
    axes.legend(loc="best")
    return drawn


def draw_hypervolumes(table: Comparison) -> Figure:
    """The hypervolume over the epochs trained, or over the finished trials, all against one reference."""
    drawn = figure(3.4)
    axes = drawn.add_subplot()
    for study, look in looks(table):
        if not isinstance(study.hypervolume, Missing):
            done_N = _spent(study.hypervolume, table.knows_epochs)
            axes.step(done_N, study.hypervolume.hypervolume_N, where="post", color=look.colour, linestyle=look.line)
            axes.plot(done_N[-1:], study.hypervolume.hypervolume_N[-1:], look.mark, color=look.colour, markersize=6)
            _in_legend(axes, study, look)
    unit = hypervolume_unit(table.objectives)
    spent = "epochs trained, all trials together" if table.knows_epochs else "finished trials"
    axes.set(xlabel=spent, ylabel=f"hypervolume ({unit})" if unit else "hypervolume")
    axes.set_ylim(bottom=_bottom(table))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(loc="lower right")
    return drawn


def _spent(found: HypervolumeHistory, in_epochs: bool) -> NDArray[np.int64]:
    return found.epochs_N if in_epochs and found.epochs_N is not None else np.arange(1, len(found.trial_N) + 1)


def _bottom(table: Comparison) -> float:
    """What all studies have reached after a quarter of their trials: from zero, no difference could be seen."""
    found = [study.hypervolume for study in table.studies if not isinstance(study.hypervolume, Missing)]
    return min(float(one.hypervolume_N[len(one.hypervolume_N) // 4]) for one in found) * 0.99


def draw_chosen(table: Comparison) -> Figure:
    """A row a study: its chosen model's test AUROC with its interval, and a tick where the baseline is."""
    drawn = figure(0.42 * len(table.studies) + 1.0)
    axes = drawn.add_subplot()
    for place, (study, look) in enumerate(looks(table)):
        area = study.summary.test_auroc
        axes.hlines([-place], [area.low], [area.high], color=look.colour, linewidth=1.6)
        axes.scatter([area.value], [-place], s=38, color=look.colour, marker=look.mark, zorder=3)
        if study.baseline is not None:
            axes.scatter([study.baseline.test_auroc.value], [-place], s=170, marker="|", color=GREY, zorder=2,
                         label=None if place else "raw nearest neighbours")  # fmt: skip
    axes.set_yticks([-place for place in range(len(table.studies))], [_short(study) for study in table.studies])
    axes.set(ylim=(0.6 - len(table.studies), 0.6), xlabel="test AUROC")
    axes.grid(False, axis="y")
    axes.margins(x=0.06)
    if axes.get_legend_handles_labels()[0]:
        drawn.legend(loc="outside upper left", handletextpad=0.3)
    return drawn


def _in_legend(axes: Axes, study: OneStudy, look: Look) -> None:
    axes.plot([], [], color=look.colour, linestyle=look.line, marker=look.mark, label=_short(study))


def _short(study: OneStudy) -> str:
    return study.name if len(study.name) <= LONGEST_NAME else f"{study.name[: LONGEST_NAME - 1]}…"
