"""Parallel coordinates, live: a drag along an axis picks the lines that cross it there."""

import numpy as np
from numpy.typing import NDArray

from pipeline.report.figures.contour import value_limits
from pipeline.report.figures.parallel import ABSENT, heights, tick_texts
from pipeline.report.figures.style import STEPS
from pipeline.report.figures.texts import axis_name, short, wrapped
from pipeline.report.interactive.drawn import Drawn
from pipeline.report.interactive.live import Json, Live, brief, said
from pipeline.report.names import metric_name
from pipeline.report.tables import Parallel
from pipeline.report.tables.frames import Floats


def live_parallel(table: Parallel, drawn: Drawn) -> Live:
    """Lines in as many colours as the scale has steps, since one trace has one colour; the frontier's on top."""
    some_N = drawn.is_one_of_few(table.trial_N)
    height_NA, shade_N = heights(table), _shades(table.colour_N)
    traces = [
        _lines(
            table, height_NA, some_N & (table.frontier_N == on_frontier) & (shade_N == shade), shade, on_frontier, drawn
        )
        for on_frontier in (False, True)
        for shade in range(-1, STEPS)
        if (some_N & (table.frontier_N == on_frontier) & (shade_N == shade)).any()
    ]
    size, absent = len(table.axes), bool(np.isnan(table.values_NA).any())
    names = [said(wrapped(short(axis_name(axis.name), 40), 12)).replace("\n", "<br>") for axis in table.axes]
    layout: Json = {
        "showlegend": False,
        "xaxis": {"tickvals": list(range(size)), "ticktext": names, "range": [-0.15, size - 0.5], "showgrid": False,
                  "ticks": "", "showline": False, "fixedrange": True, "tickangle": 0, "tickfont": {"size": 10.5}},
        "yaxis": {"visible": False, "range": [ABSENT - 0.06 if absent else -0.06, 1.06], "fixedrange": True},
        "shapes": [_upright(place) for place in range(size)],
        "annotations": _texts(table, absent),
        "coloraxis": _scale(table.colour_N),
    }  # fmt: skip
    traces.append(_key())
    note = f"Coloured by {metric_name(table.colour_metric)}."
    if len(drawn.few) < len(table.trial_N):
        note += f" {int(some_N.sum()):,} of {len(table.trial_N):,} trials are drawn live."
    return Live(traces=tuple(traces), layout=layout, height=460, brush=True, note=note,
                least_width=74 * len(table.axes))  # fmt: skip


def _shades(colour_N: Floats) -> NDArray[np.int64]:
    """The step of the colour scale of each, -1 where the value is unknown."""
    low, high = value_limits(colour_N)
    step = np.clip((colour_N - low) / ((high - low) or 1.0) * STEPS, 0, STEPS - 1)
    return np.where(np.isfinite(step), np.nan_to_num(step), -1).astype(np.int64)


def _lines(
    table: Parallel, height_NA: Floats, some_N: NDArray[np.bool_], shade: int, on_frontier: bool, drawn: Drawn
) -> Json:
    """All lines of a colour as one trace, a gap after each."""
    size = len(table.axes)
    x = [place for _ in range(int(some_N.sum())) for place in (*range(size), None)]
    y = [value for row in height_NA[some_N] for value in (*brief(row, 4), None)]
    rows = [row for row in drawn.rows(table.trial_N[some_N]) for _ in range(size + 1)]
    line = {"color": f"scale({shade})" if shade >= 0 else "var(--faint)", "width": 2.2 if on_frontier else 0.9}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "customdata": rows, "line": line,
            "opacity": 1.0 if on_frontier else 0.45}  # fmt: skip


def _scale(colour_N: Floats) -> Json:
    low, high = value_limits(colour_N)
    return {"colorscale": "scale", "cmin": brief([low])[0], "cmax": brief([high])[0], "colorbar": {"outlinewidth": 0}}


def _key() -> Json:
    """A point that nobody sees, for the colour scale beside the lines."""
    return {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "hoverinfo": "skip",
            "marker": {"color": [0], "coloraxis": "coloraxis"}}  # fmt: skip


def _upright(place: int) -> Json:
    return {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "line": {"color": "var(--soft)", "width": 1}}


def _texts(table: Parallel, absent: bool) -> list[Json]:
    style = {"showarrow": False, "xanchor": "left", "font": {"size": 10.5}, "bgcolor": "var(--card)", "opacity": 0.85}
    told = [
        {"x": place, "y": brief([height])[0], "text": said(text), **style}
        for place, axis in enumerate(table.axes)
        for height, text in tick_texts(axis.choices, axis.low, axis.high)
    ]
    return [*told, {"x": 0, "y": ABSENT, "text": "none", **style}] if absent else told
