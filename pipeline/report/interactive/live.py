"""What a live figure is made of: traces and a layout as plotly.js takes them, in few bytes.

Colours are the page's: "var(--ink)" is its custom property, and the colour scale "scale" is that of its mode, light or
dark. A point's `customdata` is its trial's row in `Drawn`, from which the page tells the configuration.

Source: the plotly.js reference, https://plotly.com/javascript/reference/.
"""

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.report.names import axis_label
from pipeline.report.tables.frames import Floats

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class View:
    """One state of a figure that can be switched.

    Attributes:
        label: What the reader chooses, plain text.
        changes: What it sets in traces, by their place.
        layout: What it sets in the layout.
    """

    label: str
    changes: Mapping[int, Json]
    layout: Json


@dataclass(frozen=True, kw_only=True)
class Live:
    """A figure that answers to the mouse.

    Attributes:
        traces, layout: As plotly.js takes them.
        height: Pixels; of one row of panels where there are columns.
        columns: Panels side by side on a wide page; 0 where the layout says where they are.
        is_shared: Whether all panels have one axis upwards, so that the first of a row names it for all.
        least_width: Pixels; on a narrower page the figure scrolls sideways. 0 where it fits any.
        views, switch: The states, the first of them the one at the start, and what the switch between them is called.
        brush: Whether dragging along an axis picks lines.
        note: What was left out of the drawing, plain text.
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

    def plain(self) -> Json:
        """As JSON."""
        views = [
            {"label": view.label, "changes": [*view.changes.items()], "layout": view.layout} for view in self.views
        ]
        known = {
            "columns": self.columns,
            "shared": self.is_shared,
            "least": self.least_width,
            "views": views,
            "switch": self.switch,
            "brush": self.brush,
            "note": self.note,
        }
        figure = {"data": list(self.traces), "layout": self.layout, "height": self.height}
        return figure | {name: value for name, value in known.items() if value}


def brief(values: Iterable[Any], digits: int = 5) -> list[float | int | None]:
    """Numbers to so many significant digits, None where one is not finite: nobody sees more of a dot's place."""
    return [_brief(float(value), digits) for value in values]


def _brief(value: float, digits: int) -> float | int | None:
    if not np.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    if not np.isfinite(short):
        return value
    return int(short) if short.is_integer() and abs(short) < 1e9 else short


def said(text: str, longest: int = 60) -> str:
    """Text that plotly.js, which knows some tags, shows as it is."""
    return html.escape(text if len(text) <= longest else f"{text[: longest - 1]}…", quote=False)


def axis(label: str, log: bool = False, limits: tuple[float, float] | None = None, **more: Any) -> Json:
    """An axis with its name, already `said`."""
    made: Json = {"title": {"text": label}, "type": "log" if log else "linear", **more}
    if log:
        made |= (
            {"tickvals": (ticks := log_ticks(*limits)), "ticktext": [f"{tick:g}" for tick in ticks]} if limits else {}
        )
    if limits is not None:
        made["range"] = brief(np.log10(limits) if log else limits)
    return made


def of_metric(metric: str) -> str:
    """A metric's name and unit as an axis says it."""
    return said(axis_label(metric))


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two ends, or the powers alone where these are many."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def padded(values: Floats, log: bool, share: float = 0.05) -> tuple[float, float] | None:
    """Limits around finite values with some room, on the axis' own scale; None where there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = (np.log10(known.min()), np.log10(known.max())) if log else (known.min(), known.max())
    room = share * (high - low) or (0.1 if log else 0.5)
    ends = low - room, high + room
    return (float(10 ** ends[0]), float(10 ** ends[1])) if log else (float(ends[0]), float(ends[1]))
