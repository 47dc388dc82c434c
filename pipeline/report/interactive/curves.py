"""Live figures of what goes on by epoch or by trial, and of the surface over two parameters."""

import math

import numpy as np

from pipeline.report.figures.contour import contour_levels
from pipeline.report.figures.course import course_rows
from pipeline.report.figures.style import STEPS
from pipeline.report.figures.training import LABELS
from pipeline.report.interactive.drawn import Drawn
from pipeline.report.interactive.live import Json, Live, View, axis, brief, padded, said
from pipeline.report.names import hypervolume_unit, metric_name, parameter_name
from pipeline.report.tables import Contour, Course, HypervolumeHistory, TrainingCurves
from pipeline.report.tables.frames import Floats
from pipeline.report.words import number, significant

# What is drawn of a curve is no finer than a page is wide.
MOST_STEPS = 500


def live_training(table: TrainingCurves) -> Live:
    """Each term by epoch, the KL weight under them."""
    curves = []
    for place, trial in enumerate(table.trials):
        curve = table.curves[table.curves["trial"] == trial]
        beta = table.beta_by_trial[trial]
        name = f"trial {trial}" if math.isnan(beta) else f"trial {trial}, β {significant(beta, 2)}"
        columns = [curve[term].to_numpy(np.float64) for term in table.terms]
        curves.append((name, _shade(place, len(table.trials)), curve["epoch"].to_numpy(np.float64), columns))
    return _stacked([LABELS[term].replace("\n", " ") for term in table.terms], curves)


def live_course(table: Course) -> Live:
    """ELBO and active units by epoch, the KL weight under them."""
    rows = course_rows(table)
    epoch_E = table.epoch_E.astype(np.float64)
    curves = [
        (f"trial {trial}", _shade(place, len(table.trial_T)), epoch_E, [values_TE[place] for _, values_TE in rows])
        for place, trial in enumerate(table.trial_T)
    ]
    return _stacked([name for name, _ in rows], curves)


def _shade(place: int, size: int) -> str:
    """Dark to light as in the picture; the other way round in dark mode."""
    return f"scale({round((1 - place / max(size - 1, 1)) * (STEPS - 1))})"


def _stacked(names: list[str], curves: list[tuple[str, str, Floats, list[Floats]]]) -> Live:
    """Panels one above the other over one axis of epochs; a click on a name in the legend hides the trial."""
    traces = []
    for name, colour, epoch_E, columns in curves:
        for place, values_E in enumerate(columns):
            kept = _thinned(len(epoch_E))
            traces.append({"type": "scatter", "mode": "lines", "name": name, "legendgroup": name,
                           "showlegend": place == 0, "x": brief(epoch_E[kept]), "y": brief(values_E[kept], 4),
                           "yaxis": _axis_name(place), "line": {"color": colour, "width": 1.7},
                           "hoverinfo": "x+y+name"})  # fmt: skip
    layout: Json = {"xaxis": axis("epoch", anchor=_axis_name(len(names) - 1))}
    for place, (name, (bottom, top)) in enumerate(zip(names, _domains(names), strict=True)):
        layout[f"yaxis{place + 1 if place else ''}"] = axis(said(name), domain=[bottom, top], nticks=5, tickformat="~g")
    return Live(traces=tuple(traces), layout=layout, height=120 + 150 * len(names))


def _domains(names: list[str]) -> list[tuple[float, float]]:
    heights = np.array([0.5 if name == "KL weight" else 1.0 for name in names])
    tops = 1 - np.concatenate([[0], np.cumsum(heights)[:-1]]) / heights.sum()
    return [
        (round(top - 0.85 * part, 4), round(top, 4)) for top, part in zip(tops, heights / heights.sum(), strict=True)
    ]


def _axis_name(place: int) -> str:
    return f"y{place + 1}" if place else "y"


def _thinned(size: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.unique(np.linspace(0, size - 1, min(size, MOST_STEPS)).round().astype(np.int64))


def live_hypervolume(table: HypervolumeHistory) -> Live:
    """Over trials, and over the epochs that they trained."""
    size = len(table.trial_N)
    # Steps that gain nothing are seen without a point of their own.
    gains = np.flatnonzero(np.diff(table.hypervolume_N, prepend=-1.0) > 0)
    kept = np.union1d(gains[_thinned(len(gains))], [size - 1])
    told = [f"trial {table.trial_N[i]}<br>hypervolume <b>{number(float(table.hypervolume_N[i]))}</b>" for i in kept]
    unit = hypervolume_unit(table.reference)
    across = {"trial number": table.trial_N}
    if table.epochs_N is not None:
        across["epochs trained"] = table.epochs_N
    views = tuple(
        View(label=name, changes={0: {"x": brief(x_N[kept])}}, layout={"xaxis": axis(name)})
        for name, x_N in across.items()
    )
    line = {"color": "var(--accent)", "width": 2, "shape": "hv"}
    trace = {"type": "scatter", "mode": "lines", "x": [], "y": brief(table.hypervolume_N[kept]), "line": line,
             "text": told, "hoverinfo": "text"}  # fmt: skip
    layout = {"yaxis": axis(f"hypervolume ({unit})" if unit else "hypervolume", rangemode="tozero")}
    return Live(traces=(trace,), layout=layout, height=300, views=views, switch="Over")


def live_contour(table: Contour, drawn: Drawn) -> Live:
    """The surface with its value on hover, and the trials over it."""
    levels, some_N = contour_levels(table), drawn.is_one_of_few(table.trial_N)
    scale: Json = {"colorscale": "scale", "cmin": brief(levels)[0], "cmax": brief(levels)[-1]}
    dots = {"type": "scatter", "mode": "markers", "x": brief(table.x_N[some_N]), "y": brief(table.y_N[some_N]),
            "customdata": drawn.rows(table.trial_N[some_N]), "showlegend": False,
            "marker": {"size": 9, "color": brief(table.value_N[some_N]), "coloraxis": "coloraxis",
                       "line": {"width": 1.2, "color": "var(--card)"}}}  # fmt: skip
    ends = padded(table.x_N, table.is_log[0]), padded(table.y_N, table.is_log[1])
    names = [said(parameter_name(name)) for name in table.parameters]
    axes = {f"{which}axis": axis(name, is_log, limits, showgrid=False)
            for which, name, is_log, limits in zip("xy", names, table.is_log, ends, strict=True)}  # fmt: skip
    layout = {**axes, "coloraxis": scale | {"colorbar": {"outlinewidth": 0}}}
    note = f"Colour: {metric_name(table.target)}. Hover over the surface for its value."
    return Live(traces=(_surface(table, levels), dots), layout=layout, height=460, note=note)


def _surface(table: Contour, levels: Floats) -> Json:
    """In the dots' colours, but not on their axis: plotly.js 4.1 never ends drawing a contour that shares one."""
    ends = brief([levels[0], levels[-1], levels[1] - levels[0]])
    return {
        "type": "contour",
        "x": brief(table.x_G, 4),
        "y": brief(table.y_H, 4),
        "z": [brief(row, 4) for row in table.mean_HG],
        "autocontour": False,
        "contours": {"coloring": "fill", "start": ends[0], "end": ends[1], "size": ends[2]},
        "colorscale": "scale",
        "zmin": ends[0],
        "zmax": ends[1],
        "showscale": False,
        "line": {"width": 0.5, "color": "var(--card)"},
        "opacity": 0.85,
        "hoverinfo": "z",
    }
