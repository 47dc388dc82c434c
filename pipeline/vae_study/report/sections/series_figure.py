"""The series of test with what the model expected and its scores: the picture, and the live figure with its switch."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure as Picture

from vae_study.anomaly.ranges import EXPECTED, VALUE
from vae_study.report.figure import Figure
from vae_study.report.formatting import captions
from vae_study.report.frames import Floats
from vae_study.report.interactive import Interactive, Json, SampledTrials, View, axis, brief, broken, said
from vae_study.report.sections.series import Period, Series, series
from vae_study.report.style import ANOMALY, GREY, INK, NORMAL, PAGE_COLOURS, figure, log_scale, wrapped

SHADE = 0.14


def draw_series(table: Series) -> Picture:
    """The first view: a panel for each sensor, then the score."""
    view, names = table.views[0], _panels(table.views[0], table)
    drawn = figure(0.95 * len(names) + 0.9)
    panels = drawn.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    place_P = view.start + view.step * np.arange(len(next(iter(view.lines.values()))))
    across = pd.to_datetime(place_P.astype(np.int64)).to_numpy() if table.sequence.is_moment else place_P
    for axes, (name, columns) in zip(panels, names, strict=True):
        for column, colour in columns:
            axes.plot(across, view.lines[column], color=colour, linewidth=0.7)
        for ends in view.ranges:
            left, right = pd.to_datetime(np.array(ends, np.int64)) if table.sequence.is_moment else ends
            axes.axvspan(left, right, color=ANOMALY, alpha=SHADE, linewidth=0)
        if name == "score":
            for at in table.thresholds:
                axes.axhline(at, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            if table.is_log:
                log_scale(axes, "y")
        axes.set_ylabel(wrapped(name, 12), fontsize=8)
        axes.tick_params(labelsize=7.5)
    if table.sequence.is_moment:
        panels[-1].xaxis.set_major_formatter(ConciseDateFormatter(panels[-1].xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
    panels[0].set_title(f"{view.label}: {table.sequence.time}")
    return drawn


def _panels(view: Period, table: Series) -> list[tuple[str, list[tuple[str, str]]]]:
    """From top to bottom: what is above each other, and its lines with their colours."""
    found = [(name, [(f"{VALUE}{name}", INK), (f"{EXPECTED}{name}", NORMAL)]) for name in view.sensors]
    found += [("KL of each step (nats)", [("kl", NORMAL)])] if table.has_kl else []
    return [*found, ("score", [("score", INK)])]


def interactive_series(table: Series, sampled: SampledTrials) -> Interactive:
    """The same with a switch between series and stretches; all panels have one axis of time."""
    panels = _panels(table.views[0], table)
    # Each view brings its own values.
    traces = [
        {"type": "scatter", "mode": "lines", "y": [], "yaxis": _axis(place, "y"), "name": _named(column),
         "line": {"color": PAGE_COLOURS[colour], "width": 1.2}, "showlegend": False}
        for place, (_, some) in enumerate(panels) for column, colour in some
    ]  # fmt: skip
    columns, height, layout = [column for _, some in panels for column, _ in some], 1 / len(panels), {}
    for place, (name, _) in enumerate(panels):
        top, is_log = 1 - place * height, name == "score" and table.is_log
        span = [round(top - 0.86 * height, 4), round(top, 4)]
        layout[_axis(place, "yaxis")] = axis(broken(name, 14), log=is_log, domain=span, nticks=4)
    layout["xaxis"] = axis(said(table.sequence.time), anchor=_axis(len(panels) - 1, "y"), showgrid=False)
    if table.sequence.is_moment:
        layout["xaxis"]["type"] = "date"
    views = []
    for view in table.views:
        across = _across(view, table)
        changes = {place: {**across, "y": _brief(view.lines[name])} for place, name in enumerate(columns)}
        views.append(View(label=said(view.label), changes=changes, layout={"shapes": _shapes(view, table)}))
    return Interactive(
        traces=tuple(traces),
        layout=layout,
        height=90 * len(panels) + 60,
        views=tuple(views),
        switch="Show",
        note="Drag to zoom, double-click to see all of it.",
    )


def _brief(values: Floats) -> list[float | int | None]:
    return brief(values, 4)


def _named(column: str) -> str:
    kind, _, name = column.partition("/")
    return said(f"{name}, expected" if kind == EXPECTED.rstrip("/") else name or kind)


def _axis(place: int, kind: str) -> str:
    return f"{kind}{'' if place == 0 else place + 1}"


def _across(view: Period, table: Series) -> Json:
    """Where the first place is and how far apart places are, as plotly.js takes them: times are in milliseconds."""
    if not table.sequence.is_moment:
        return {"x0": view.start, "dx": view.step}
    return {"x0": str(pd.Timestamp(int(view.start))), "dx": view.step / 1e6}


def _shapes(view: Period, table: Series) -> list[Json]:
    """The anomalous ranges behind all panels, and the thresholds in that of the score."""
    across: Any = (lambda time: str(pd.Timestamp(int(time)).round("ms"))) if table.sequence.is_moment else float
    shades = [
        {"type": "rect", "x0": across(low), "x1": across(high), "yref": "paper", "y0": 0, "y1": 1, "layer": "below",
         "fillcolor": PAGE_COLOURS[ANOMALY], "opacity": SHADE, "line": {"width": 0}}
        for low, high in view.ranges
    ]  # fmt: skip
    last = _axis(len(_panels(view, table)) - 1, "y")
    return shades + [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "yref": last, "y0": at, "y1": at,
         "line": {"color": "var(--soft)", "width": 1, "dash": "dot"}}
        for at in brief(table.thresholds, 6)
    ]  # fmt: skip


SERIES = Figure(
    name="series",
    numbers=series,
    draw=draw_series,
    words=captions("series"),
    interactive=interactive_series,
    is_optional=True,
)
