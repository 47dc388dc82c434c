"""What the dots of the plane can be coloured by."""

import numpy as np
import pandas as pd

from pipeline.report.figures.style import LABELS
from pipeline.report.interactive.drawn import Drawn
from pipeline.report.interactive.live import Json, View, brief, log_ticks, said
from pipeline.report.names import metric_name, parameter_name
from pipeline.report.tables import StudyTables
from pipeline.report.tables.frames import Floats, numbers, search_range, short_name


def colour_views(tables: StudyTables, drawn: Drawn, places: dict[int, list[int]], auroc: str) -> tuple[View, ...]:
    """AUROC, beta, latent size, active units and family, where the trials differ in them.

    Args:
        tables: The study's.
        drawn: The trials of the figure.
        places: For each trace that is coloured its place, and the rows of its points.
        auroc: The metric of the AUROC.
    """
    wanted = (auroc, "beta", "latent_dim", "val/active_units", short_name("family", list(drawn.trials.columns)))
    views = (_view(tables, drawn, places, name) for name in wanted if name in drawn.trials.columns and name)
    return tuple(view for view in views if view is not None)


def _view(tables: StudyTables, drawn: Drawn, places: dict[int, list[int]], name: str) -> View | None:
    shown = drawn.trials.iloc[sorted({row for rows in places.values() for row in rows})]
    if shown[name].nunique() < 2:
        return None
    label = metric_name(name) if "/" in name else parameter_name(name)
    values = numbers(drawn.trials, name)
    if not np.isfinite(values).any():
        values, scale = _choices(drawn.trials[name])
    else:
        known = numbers(shown, name)
        log = bool(search_range(tables.record, name).get("log")) and bool((known[np.isfinite(known)] > 0).all())
        values, scale = _numbers(values, known, log)
    bar = scale.pop("colorbar", {}) | {"outlinewidth": 0}
    changes = {place: {"marker": {"color": brief(values[rows])}} for place, rows in places.items()}
    return View(label=label, changes=changes, layout={"coloraxis": {**scale, "colorbar": bar}})


def _numbers(values: Floats, shown: Floats, log: bool) -> tuple[Floats, Json]:
    low, high = float(np.nanmin(shown[np.isfinite(shown)])), float(np.nanmax(shown[np.isfinite(shown)]))
    scale: Json = {"colorscale": "scale", "cmin": low, "cmax": high, "colorbar": {"tickvals": None, "ticktext": None}}
    if log:
        ticks = log_ticks(low, high)
        scale |= {"cmin": np.log10(low), "cmax": np.log10(high)}
        scale["colorbar"] = {"tickvals": brief(np.log10(ticks)), "ticktext": [f"{tick:g}" for tick in ticks]}
        values = np.log10(values, where=values > 0, out=np.full(len(values), np.nan))
    return values, scale | {end: brief([scale[end]])[0] for end in ("cmin", "cmax")}


def _choices(column: "pd.Series[str]") -> tuple[Floats, Json]:
    """Each a colour of its own, from a palette that the colour-blind tell apart as well."""
    names = sorted({str(value) for value in column.dropna()})[: len(LABELS)]
    values = np.array([names.index(str(v)) if str(v) in names else np.nan for v in column], dtype=np.float64)
    steps = np.linspace(0, 1, len(names) + 1)
    scale = [[end, LABELS[i]] for i in range(len(names)) for end in brief(steps[i : i + 2])]
    bar = {"tickvals": list(range(len(names))), "ticktext": [said(name, 16) for name in names]}
    return values, {"colorscale": scale, "cmin": -0.5, "cmax": len(names) - 0.5, "colorbar": bar}
