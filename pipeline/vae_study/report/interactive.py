"""Interactive figures as plotly.js takes them, in few bytes; and what the page tells of each trial in them."""

import base64
import gzip
import hashlib
import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.metrics import shown_in
from vae_study.report.formatting import axis_label
from vae_study.report.frames import Floats, numbers
from vae_study.report.frontier import objective_signs
from vae_study.report.parameters import short_name
from vae_study.report.style import GROUPS, PAGE_COLOURS, axis_name, log_ticks, wrapped
from vae_study.report.tables import StudyTables, auroc_metric
from vae_study.tracking.record import StudyRecord
from vae_study.tracking.schema import UI_VIEW

Json = dict[str, Any]
Values = Iterable[Any]
# What is drawn of a curve is no finer than a page is wide.
MOST_STEPS = 500
# The groups of finished trials, and how the page marks their dots.
MARKED_GROUPS = tuple(
    (on_frontier, name, {"size": 8 if on_frontier else 6, "color": PAGE_COLOURS[colour]})
    for on_frontier, name, colour in GROUPS
)
CHOSEN_RING = {"symbol": "circle-open", "size": 17, "color": "var(--care)", "line": {"width": 2.5}}


@dataclass(frozen=True, kw_only=True)
class SampledTrials:
    """The trials that the interactive figures draw.

    Attributes:
        record: The study's.
        trials: One row per trial: all of the frontier, and of the others as many as fit.
        few: Numbers of a smaller sample, for figures that draw a line or many dots for each trial.
        total: The number of trials that could be drawn, before sampling.
    """

    record: StudyRecord
    trials: pd.DataFrame
    few: frozenset[int]
    total: int

    def rows(self, trials: Iterable[int]) -> list[int | None]:
        """Row indices in `trials`, None for a trial that is not there."""
        row_of = {int(trial): row for row, trial in enumerate(self.trials["trial"])}
        return [row_of.get(int(trial)) for trial in trials]

    def is_sampled(self, trial_N: "pd.Series[int]") -> "pd.Series[bool]":
        """Which of these trials are in `trials`."""
        return trial_N.isin(self.trials["trial"])

    def is_one_of_few(self, trial_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these trials are among the few."""
        return np.isin(trial_N, sorted(self.few))


@dataclass(frozen=True, kw_only=True)
class View:
    """One state of a figure that can be switched.

    Attributes:
        label: What the reader chooses, plain text.
        changes: What it sets in traces, by their index.
        layout: What it sets in the layout.
    """

    label: str
    changes: Mapping[int, Json]
    layout: Json


@dataclass(frozen=True, kw_only=True)
class Slider:
    """Moves an upright line over a figure's first panel.

    Attributes:
        label: What it sets.
        x: Where the line can be.
        texts: What each place means, plain text.
        start: The index of the first place.
    """

    label: str
    x: tuple[float | int | None, ...]
    texts: tuple[str, ...]
    start: int

    def plain(self) -> Json:
        """As plain JSON values."""
        return {"label": self.label, "x": list(self.x), "texts": list(self.texts), "start": self.start}


@dataclass(frozen=True, kw_only=True)
class Interactive:
    """An interactive figure.

    Attributes:
        traces, layout: As plotly.js takes them.
        height: Pixels; of one row of panels where there are columns.
        columns: Panels side by side on a wide page; 0 where the layout says where they are.
        is_shared: Whether all panels have one axis upwards, so that the first of a row names it for all.
        least_width: Pixels; on a narrower page the figure scrolls sideways. 0 where it fits any.
        views, switch: The states, the first of them the one at the start, and what the switch between them is called.
        brush: Whether dragging along an axis picks lines.
        note: What was left out of the drawing, plain text.
        slider: Moves a line; None where there is none.
    """

    traces: tuple[Json, ...]
    layout: Json
    height: int
    columns: int = 0
    is_shared: bool = False
    least_width: int = 0
    views: tuple[View, ...] = ()
    switch: str = ""
    brush: bool = False
    note: str = ""
    slider: Slider | None = None

    def plain(self) -> Json:
        """The figure as plain JSON values."""
        views = [{"label": one.label, "changes": [*one.changes.items()], "layout": one.layout} for one in self.views]
        more = {
            "columns": self.columns,
            "shared": self.is_shared,
            "least": self.least_width,
            "views": views,
            "switch": self.switch,
            "brush": self.brush,
            "note": self.note,
            "slider": self.slider.plain() if self.slider else None,
        }
        figure = {"data": list(self.traces), "layout": self.layout, "height": self.height}
        return figure | {name: value for name, value in more.items() if value}


def brief(values: Values, digits: int = 5) -> list[float | int | None]:
    """Numbers to this many significant digits, None where one is not finite: more digits move no dot visibly."""
    return [_brief(float(value), digits) for value in values]


def _brief(value: float, digits: int) -> float | int | None:
    if not np.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    if not np.isfinite(short):
        return value
    return int(short) if short.is_integer() and abs(short) < 1e9 else short


def said(text: str, longest: int = 60) -> str:
    """Text, cut and escaped for plotly.js, which interprets some HTML tags."""
    return html.escape(text if len(text) <= longest else f"{text[: longest - 1]}…", quote=False)


def broken(text: str, width: int = 24) -> str:
    """Text broken into lines, escaped for plotly.js."""
    return said(wrapped(text, width)).replace("\n", "<br>")


def thinned(size: int, most: int = MOST_STEPS) -> NDArray[np.int64]:
    """At most `most` of the indices below `size`, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, max(most, 0))).round().astype(np.int64))


def dots(sampled: SampledTrials, trials: Iterable[int], x: Values, y: Values, marker: Json, **more: Any) -> Json:
    """A trace of dots, each with its trial on hover."""
    return {"type": "scatter", "mode": "markers", "x": brief(x), "y": brief(y), "customdata": sampled.rows(trials),
            "marker": marker, **more}  # fmt: skip


def lines(x: list[Any], y: list[Any], colour: str, width: float, shape: str = "", **more: Any) -> Json:
    """A trace of lines with a gap at each None; the shape "hv" makes steps."""
    line: Json = {"color": colour, "width": width} | ({"shape": shape} if shape else {})
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, **more}


def in_panel(index: int, group: str = "") -> Json:
    """What puts a trace into a panel. The legend names the traces of a group once, with that of the first panel."""
    grouped = {"legendgroup": group, "showlegend": index == 0} if group else {}
    return {"xaxis": f"x{panel_number(index)}", "yaxis": f"y{panel_number(index)}", **grouped}


def panel_number(index: int) -> str:
    """A panel's number in plotly.js: empty for the first, then 2, 3, ..."""
    return "" if index == 0 else str(index + 1)


def axis(label: str, log: bool = False, limits: tuple[float, float] | None = None, **more: Any) -> Json:
    """A plotly.js axis; `label` is escaped already."""
    made: Json = {"title": {"text": label}, "type": "log" if log else "linear", **more}
    if limits is not None:
        made["range"] = brief(np.log10(limits) if log else limits)
    if limits is not None and log:
        ticks = log_ticks(*limits)
        made |= {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return made


def of_metric(metric: str) -> str:
    """A metric's name and unit as an axis says it."""
    return said(axis_label(metric))


def padded(values: Floats, log: bool, share: float = 0.05) -> tuple[float, float] | None:
    """Limits around finite values with some room, on the axis' own scale; None where there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = (np.log10(known.min()), np.log10(known.max())) if log else (known.min(), known.max())
    room = share * (high - low) or (0.1 if log else 0.5)
    ends = low - room, high + room
    return (float(10 ** ends[0]), float(10 ** ends[1])) if log else (float(ends[0]), float(ends[1]))


def trial_facts(tables: StudyTables, sampled: SampledTrials) -> Json:
    """What the page says of each trial on hover, column by column."""
    trials, columns = sampled.trials, list(tables.trials.columns)
    metrics = (*objective_signs(tables.record.config), *shown_in("live"), auroc_metric(tables.record, "val"))
    names = dict.fromkeys([short_name("family", columns), *tables.parameters, *metrics])
    facts = [(axis_name(name), _facts(trials, name)) for name in names if name in columns]
    return {
        "number": [int(trial) for trial in trials["trial"]],
        "state": [said(str(state)) for state in trials["state"]],
        "run": [str(run) if isinstance(run, str) else None for run in trials["run_id"]],
        "facts": [[said(label), values] for label, values in facts if any(value is not None for value in values)],
        "runs": runs_address(tables.record),
        "view": UI_VIEW,
    }


def _facts(trials: pd.DataFrame, column: str) -> list[float | int | str | None]:
    return [
        said(str(value)) if number is None and isinstance(value, str) else number
        for value, number in zip(trials[column], brief(numbers(trials, column)), strict=True)
    ]


def run_links(record: StudyRecord) -> dict[str, str]:
    """Where each trial's run is shown, by its number as text; none of a store without a server."""
    address = runs_address(record)
    pairs = zip(record.trials["trial"], record.trials["run_id"], strict=True)
    return {str(trial): f"{address}{run}?{UI_VIEW}" for trial, run in pairs if isinstance(run, str)} if address else {}


def runs_address(record: StudyRecord) -> str | None:
    """Where MLflow's UI shows the runs of the study, to be followed by a run's id; None of a store without a server.

    A user and a password in the tracking address stay out of it.
    """
    parts = urlsplit(record.tracking_uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/#/experiments/{record.experiment_id}/runs/"


@cache
def packed_library() -> str:
    """plotly.js, gzip in base64; without a time, so that it is the same each time."""
    return base64.b64encode(gzip.compress(_source(), compresslevel=9, mtime=0)).decode("ascii")


@cache
def library_hash() -> str:
    """The library's hash, as a Content Security Policy names it."""
    return script_hash(_source())


def script_hash(script: bytes) -> str:
    """A script's hash, as a Content Security Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode('ascii')}'"


def _source() -> bytes:
    """plotly.js from the installed package, read without importing the package."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
