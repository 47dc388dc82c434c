"""Picture of the best trials, trained again with further seeds."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures.style import CHOSEN, INK, NORMAL, figure
from pipeline.report.names import axis_label
from pipeline.report.tables import Confirmation


def draw_confirmation(table: Confirmation, champion: int | None) -> Figure:
    """A row a trial, a dot a seed, a ring around the study's own and a bar at the mean."""
    drawn = figure(0.38 * len(table.trials) + 1.15)
    axes = drawn.add_subplot()
    place = {trial: -i for i, trial in enumerate(table.trials)}
    for original, name in ((False, "further seed"), (True, "the study’s own")):
        dots = table.dots[table.dots["original"].eq(original)]
        _dots(axes, dots["value"].tolist(), [place[trial] for trial in dots["trial"]], original, name)
    spread = table.spreads[table.metric]
    rows = [place[trial] for trial in spread["trial"]]
    axes.scatter(spread["mean"], rows, s=260, marker="|", color=INK, linewidths=1.6, zorder=2, label="mean")
    names = [f"trial {trial}{' (chosen)' if trial == champion else ''}" for trial in table.trials]
    axes.set_yticks(list(place.values()), names)
    axes.set(ylim=(0.6 - len(table.trials), 0.6), xlabel=axis_label(table.metric))
    axes.grid(False, axis="y")
    axes.margins(x=0.06)
    drawn.legend(loc="outside upper left", ncols=3, handletextpad=0.3, columnspacing=1.2)
    return drawn


def _dots(axes: Axes, values: list[float], rows: list[int], original: bool, name: str) -> None:
    if values and original:
        axes.scatter(values, rows, s=80, facecolors="none", edgecolors=CHOSEN, linewidths=1.6, zorder=4, label=name)
    if values:
        axes.scatter(values, rows, s=26, color=NORMAL, alpha=0.8, linewidths=0, zorder=3, label=name * (not original))
