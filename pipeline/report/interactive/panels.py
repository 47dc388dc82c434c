"""Live figures of several panels: importances, slices and what detection costs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.report.figures.slices import MOST_SLICES, spread
from pipeline.report.figures.texts import axis_name, short, wrapped
from pipeline.report.interactive.drawn import Drawn
from pipeline.report.interactive.live import Json, Live, View, axis, brief, of_metric, padded, said
from pipeline.report.names import metric_name, parameter_name
from pipeline.report.tables import FrontierAuroc, Importances, Slice
from pipeline.report.words import percent

GROUPS = ((False, "finished", {"size": 6, "color": "var(--faint)"}),
          (True, "on the frontier", {"size": 8, "color": "var(--accent)"}))  # fmt: skip


def live_importances(table: Importances) -> Live:
    """A panel a target, a bar a parameter; the number of trials behind it on hover."""
    names = [said(short(parameter_name(name), 24)) for name in table.parameters]
    traces: list[Json] = []
    layout: Json = {"showlegend": False}
    for place, metric in enumerate(table.targets):
        share_P = table.share_PT[:, place]
        traces.append(_bars(place, names, share_P.tolist(), table))
        layout[f"xaxis{_number(place)}"] = axis(_broken(metric_name(metric)), limits=(0, 1.3 * _highest(share_P)),
                                                tickformat=".0%", nticks=4)  # fmt: skip
        layout[f"yaxis{_number(place)}"] = {"type": "category", "autorange": "reversed"}
    return Live(traces=tuple(traces), layout=layout, height=60 + 26 * len(names), columns=min(3, len(table.targets)),
                is_shared=True)  # fmt: skip


def _highest(share_P: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    known = share_P[np.isfinite(share_P)]
    return max(float(known.max()), 0.1) if len(known) else 1.0


def _bars(place: int, names: list[str], shares: list[float], table: Importances) -> Json:
    pairs = zip(names, shares, table.trials_P, strict=True)
    told = [f"<b>{name}</b><br>{_share(share)}<br>{trials:,} finished trials have it" for name, share, trials in pairs]
    return {
        "type": "bar",
        "orientation": "h",
        "x": brief(np.nan_to_num(shares), 3),
        "y": names,
        "hovertext": told,
        "hoverinfo": "text",
        "text": [percent(share) if math.isfinite(share) else "too few" for share in shares],
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"size": 11},
        "marker": {"color": "var(--accent)"},
        **_axes(place),
    }


def _share(share: float) -> str:
    return percent(share) if math.isfinite(share) else "cannot be said of so few trials"


def live_slices(tables: Mapping[str, Sequence[Slice]], drawn: Drawn) -> Live:
    """A panel a parameter; the target is the reader's choice."""
    first, *_ = shown = [list(some[:MOST_SLICES]) for some in tables.values()]
    order = [table.parameter for table in first]
    traces, layout = [], {}
    for place, table in enumerate(first):
        traces += [_slice(table, drawn, place, group) for group in range(len(GROUPS))]
        layout[f"xaxis{_number(place)}"] = _across(table)
        layout[f"yaxis{_number(place)}"] = {"nticks": 4}
    views = tuple(_target(some, drawn, order) for some in shown)
    return Live(traces=tuple(traces), layout=layout, height=170, columns=3, views=views, switch="Metric",
                is_shared=True, note=_note(first, drawn))  # fmt: skip


def _note(tables: Sequence[Slice], drawn: Drawn) -> str:
    most = max(len(table.trial_N) for table in tables)
    return f"{len(drawn.few):,} of {most:,} trials are drawn live." if most > len(drawn.few) else ""


def _slice(table: Slice, drawn: Drawn, place: int, group: int) -> Json:
    on_frontier, name, marker = GROUPS[group]
    some = drawn.is_one_of_few(table.trial_N) & (table.frontier_N == on_frontier)
    return {"type": "scatter", "mode": "markers", "name": name, "x": brief(spread(table)[some], 4),
            "y": brief(table.y_N[some], 4), "customdata": drawn.rows(table.trial_N[some]), "marker": marker,
            "legendgroup": name, "showlegend": place == 0, **_axes(place)}  # fmt: skip


def _across(table: Slice) -> Json:
    label = said(short(parameter_name(table.parameter), 28))
    if table.choices is None:
        return axis(label, table.is_log, padded(table.x_N, table.is_log))
    names = [said(short(choice, 14)) for choice in table.choices]
    return axis(label, limits=(-0.6, len(names) - 0.4), tickvals=list(range(len(names))), ticktext=names)


def _target(tables: Sequence[Slice], drawn: Drawn, order: list[str]) -> View:
    """What changes with the target: every value upwards, and whom it belongs to, since some lack a metric."""
    changes, layout = {}, {}
    limits = padded(np.concatenate([table.y_N for table in tables]), False)
    for table in tables:
        place = order.index(table.parameter) if table.parameter in order else None
        if place is not None:
            for group in range(len(GROUPS)):
                made = _slice(table, drawn, place, group)
                changes[place * len(GROUPS) + group] = {key: made[key] for key in ("x", "y", "customdata")}
            layout[f"yaxis{_number(place)}"] = axis("", limits=limits)
    return View(label=metric_name(tables[0].target), changes=changes, layout=layout)


def live_frontier_auroc(table: FrontierAuroc, drawn: Drawn) -> Live:
    """The frontier on test with its intervals, and all finished trials on validation."""
    traces: list[Json] = []
    layout: Json = {}
    if len(table.test):
        traces.append(_with_intervals(table, drawn))
    place = len(traces)
    for on_frontier, name, marker in GROUPS:
        some = table.validation[table.validation["frontier"].eq(on_frontier)]
        some = some[drawn.is_drawn(some["trial"].to_numpy(np.int64))]
        traces.append({"type": "scatter", "mode": "markers", "name": name, "x": brief(some["across"]),
                       "y": brief(some["auroc"], 4), "customdata": drawn.rows(some["trial"]), "marker": marker,
                       **_axes(place)})  # fmt: skip
    for i, rows in enumerate((table.test, table.validation)[-1 - place :]):
        traces += _chosen(rows[rows["champion"]], i, drawn)
    names = ["test AUROC, 95 % interval"] * place + [_broken(axis_name(table.validation_metric))]
    for i, name in enumerate(names):
        layout[f"xaxis{_number(i)}"] = axis(of_metric(table.across))
        layout[f"yaxis{_number(i)}"] = axis(name)
    return Live(traces=tuple(traces), layout=layout, height=330, columns=len(names))


def _chosen(rows: pd.DataFrame, place: int, drawn: Drawn) -> list[Json]:
    marker = {"symbol": "circle-open", "size": 17, "color": "var(--care)", "line": {"width": 2.5}}
    ring = {"type": "scatter", "mode": "markers", "name": "chosen", "x": brief(rows["across"]),
            "y": brief(rows["auroc"], 4), "customdata": drawn.rows(rows["trial"]), "marker": marker,
            "legendgroup": "chosen", "showlegend": place == 0, **_axes(place)}  # fmt: skip
    return [ring] if len(rows) else []


def _with_intervals(table: FrontierAuroc, drawn: Drawn) -> Json:
    test = table.test
    error = {"type": "data", "symmetric": False, "array": brief(test["high"] - test["auroc"], 3),
             "arrayminus": brief(test["auroc"] - test["low"], 3), "thickness": 1.2, "width": 0}  # fmt: skip
    return {"type": "scatter", "mode": "markers", "x": brief(test["across"]), "y": brief(test["auroc"], 4),
            "customdata": drawn.rows(test["trial"]), "error_y": error, "marker": {"size": 8, "color": "var(--accent)"},
            "showlegend": False}  # fmt: skip


def _broken(text: str) -> str:
    """In lines, as plotly.js takes them."""
    return said(wrapped(text, 24)).replace("\n", "<br>")


def _axes(place: int) -> Json:
    return {"xaxis": f"x{_number(place)}", "yaxis": f"y{_number(place)}"}


def _number(place: int) -> str:
    """As plotly.js counts axes."""
    return "" if place == 0 else str(place + 1)
