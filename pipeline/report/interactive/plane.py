"""The trade-off, live: every trial with its configuration, coloured by what the reader chooses."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.report.figures.trade_off import elbo_totals
from pipeline.report.interactive.colours import colour_views
from pipeline.report.interactive.drawn import Drawn
from pipeline.report.interactive.live import Json, Live, axis, brief, of_metric, said
from pipeline.report.tables import Knee, Plane, Strip, StudyTables
from pipeline.report.words import number

MARKS = {
    "stopped": {"symbol": "x-thin-open", "size": 6, "color": "var(--faint)"},
    "running": {"symbol": "cross-thin-open", "size": 7, "color": "var(--soft)"},
    "waiting": {"symbol": "y-up-open", "size": 7, "color": "var(--soft)"},
}


def live_plane(table: Plane, tables: StudyTables, drawn: Drawn) -> Live:
    """Trials in the plane of two metrics, over lines of equal ELBO where there are such."""
    points = table.points[drawn.is_drawn(table.points["trial"].to_numpy(np.int64))]
    lines = [_equal_elbo(table)] if table.has_elbo else []
    if table.objectives_are_the_axes and points["frontier"].any():
        lines.append(_line("frontier", points[points["frontier"]].sort_values(["x", "y"])))
    layout = {
        "xaxis": axis(of_metric(table.metrics[0]), limits=table.x, showgrid=not table.has_elbo),
        "yaxis": axis(of_metric(table.metrics[1]), limits=table.y, showgrid=not table.has_elbo),
        "annotations": _names(table) if table.has_elbo else [],
    }
    return _finished(lines, points, layout, tables, drawn, table.auroc_metric)


def live_strip(table: Strip, tables: StudyTables, drawn: Drawn) -> Live:
    """The objective over the trials' numbers, with the best so far."""
    points = table.points[drawn.is_drawn(table.points["trial"].to_numpy(np.int64))]
    lines = [_line("best so far", table.best) | {"line": {"color": "var(--soft)", "width": 1.5, "shape": "hv"}}]
    limits = (float(points["x"].min()) - 1, float(points["x"].max()) + 1)
    layout = {"xaxis": axis("trial number", limits=limits), "yaxis": axis(of_metric(table.metric), limits=table.y)}
    return _finished(lines if len(table.best) > 1 else [], points, layout, tables, drawn, table.auroc_metric)


def _finished(
    lines: list[Json], points: pd.DataFrame, layout: Json, tables: StudyTables, drawn: Drawn, auroc: str
) -> Live:
    """Marks over lines, the most important on top."""
    traces = [*lines, *_states(points, drawn)]
    done = points[points["state"].eq("finished") & points["feasible"]]
    groups = (("finished", done[~done["frontier"]], 8), ("on the frontier", done[done["frontier"]], 12))
    places = {}
    for name, some, size in groups:
        if len(some):
            places[len(traces)] = [row for row in drawn.rows(some["trial"]) if row is not None]
            traces.append(_dots(name, some, drawn, {"size": size, "color": "var(--accent)"}))
    views = colour_views(tables, drawn, places, auroc)
    if views:
        for place in places:
            traces.append(_key(traces[place]))
            traces[place] |= {"showlegend": False}
            traces[place]["marker"] |= {"coloraxis": "coloraxis"}
    traces += _rings(points, drawn, tables.knee.trial if isinstance(tables.knee, Knee) else None)
    left_out = len(tables.plane.points) - len(points) if isinstance(tables.plane, Plane | Strip) else 0
    note = f"{len(points):,} of {len(points) + left_out:,} trials are drawn live, all of the frontier among them."
    return Live(traces=tuple(traces), layout=layout, height=520, views=views, switch="Colour",
                note=note if left_out else "")  # fmt: skip


def _states(points: pd.DataFrame, drawn: Drawn) -> list[Json]:
    found = [(state, points[points["state"].eq(state)], mark) for state, mark in MARKS.items()]
    beyond = points[points["state"].eq("finished") & ~points["feasible"]]
    found.append(("constraint violated", beyond, {"symbol": "triangle-down-open", "size": 8, "color": "var(--ink)"}))
    return [_dots(name, some, drawn, mark) for name, some, mark in found if len(some)]


def _rings(points: pd.DataFrame, drawn: Drawn, knee: int | None) -> list[Json]:
    ring = {"symbol": "circle-open", "size": 19, "color": "var(--care)", "line": {"width": 2.5}}
    square = {"symbol": "diamond-open", "size": 19, "color": "var(--ink)", "line": {"width": 1.5}}
    chosen, at_knee = points[points["champion"]], points[points["trial"].eq(-1 if knee is None else knee)]
    named = ((f"chosen: trial {''.join(map(str, chosen['trial']))}", chosen, ring), ("knee", at_knee, square))
    return [_dots(name, some, drawn, mark) for name, some, mark in named if len(some)]


def _dots(name: str, points: pd.DataFrame, drawn: Drawn, marker: Mapping[str, object]) -> Json:
    thin = {"line": {"width": 1.2 if "open" in str(marker.get("symbol")) else 0.7, "color": "var(--card)"}}
    if "open" in str(marker.get("symbol")):
        thin["line"].pop("color")
    return {
        "type": "scatter",
        "mode": "markers",
        "name": said(name),
        "x": brief(points["x"]),
        "y": brief(points["y"]),
        "customdata": drawn.rows(points["trial"]),
        "marker": {**thin, **marker},
    }


def _key(dots: Json) -> Json:
    """The legend's own dot, since coloured ones have no colour that stands for all."""
    marker = {"size": dots["marker"]["size"], "color": "var(--soft)"}
    return {"type": "scatter", "mode": "markers", "name": dots["name"], "x": [None], "y": [None], "marker": marker}


def _line(name: str, points: pd.DataFrame) -> Json:
    line = {"color": "var(--ink)", "width": 1.5}
    return {"type": "scatter", "mode": "lines", "name": name, "x": brief(points["x"]), "y": brief(points["y"]),
            "line": line, "hoverinfo": "skip"}  # fmt: skip


def _equal_elbo(table: Plane) -> Json:
    """Straight lines, all one trace: reconstruction and KL that add up to the same, drawn well beyond the view."""
    (left, right), (bottom, top) = table.x, table.y
    wide = right - left + top - bottom
    ends = [(left - wide, total - left + wide, right + wide, total - right - wide) for total in elbo_totals(table)]
    x = [value for end in ends for value in (*brief([end[0], end[2]], 7), None)]
    y = [value for end in ends for value in (*brief([end[1], end[3]], 7), None)]
    line = {"color": "var(--line)", "width": 1.2}
    return {"type": "scatter", "mode": "lines", "name": "equal ELBO", "x": x, "y": y, "line": line, "hoverinfo": "skip",
            "showlegend": False}  # fmt: skip


def _names(table: Plane) -> list[Json]:
    """Each line is named at its upper end, where few trials are, or at its lower one where the axis leaves no room."""
    (left, right), (bottom, top) = table.x, table.y
    named = []
    for total in elbo_totals(table):
        upper = (total - top, top) if total - top < right else (right, total - right)
        lower = (right, total - right) if total - right > bottom else (total - bottom, bottom)
        x, y = upper if upper[0] > left + 0.15 * (right - left) else lower
        if x > left + 0.15 * (right - left) and bottom <= y <= top:
            named.append(_name(x, y, f"ELBO {number(-total, 0)}", "bottom" if y == bottom else "top"))
    return named


def _name(x: float, y: float, text: str, anchor: str) -> Json:
    place = {"x": brief([x])[0], "y": brief([y])[0], "xanchor": "right", "yanchor": anchor, "showarrow": False}
    return {**place, "text": text, "font": {"size": 11, "color": "var(--soft)"}}
