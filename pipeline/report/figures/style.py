"""One look for all figures, and PNG bytes that depend on nothing but what is drawn."""

import io
import warnings
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

WIDTH = 6.0
# Of the colour scale, where a page takes it in steps.
STEPS = 9
INK, GREY, FAINT, PAPER = "#1f2933", "#66707a", "#c3c9d0", "#ffffff"
# Blue against vermilion is the pair of Okabe and Ito's colours that every kind of colour-blindness keeps apart.
NORMAL, ANOMALY, CHOSEN = "#2a6f97", "#c8502d", "#c8502d"
# Of kinds of normal examples; none is near ANOMALY. Labels are also named where they lie.
LABELS = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#aa4499", "#6699cc", "#4d4d4d", "#e3a6d6",
    "#8c6bb1", "#a0703c",
)  # fmt: skip

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9ecef",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
}


def scale() -> Colormap:
    """Viridis, dark for high, without its pale end, which white paper would swallow."""
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, 256))
    return LinearSegmentedColormap.from_list("report", colours)


def scale_colours(dark: bool) -> list[str]:
    """Steps of the scale for a page: in dark mode the other way round, bright for high, without the dark end."""
    shades = matplotlib.colormaps["viridis" if dark else "viridis_r"](np.linspace(0.2 if dark else 0.08, 1, STEPS))
    return [to_hex(shade) for shade in shades]


def figure(height: float) -> Figure:
    """An empty figure of the page's width, `height` inches high."""
    return Figure(figsize=(WIDTH, height))


def png(draw: Callable[[], Figure], dots_per_inch: int | None = None) -> bytes:
    """A figure's PNG, of the style's own size by default.

    It is drawn from matplotlib's defaults, not the user's matplotlibrc, and carries no date.
    """
    buffer = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        draw().savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()


def plain_ticks(axis: Axes, which: str) -> None:
    """On a log axis, numbers as people write them (0.1, 1, 10) and not as powers of ten."""
    chosen = axis.xaxis if which == "x" else axis.yaxis
    chosen.set_major_formatter(lambda value, _: f"{value:g}")
    low, high = sorted(chosen.get_view_interval())
    few = high / max(low, 1e-300) < 100
    chosen.set_minor_formatter(lambda value, _: f"{value:g}" if few and f"{value:e}"[0] in "25" else "")
