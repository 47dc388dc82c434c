"""The look of all figures, and PNG bytes that are the same for the same figure."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from vae_study.metrics import AREAS, last_part
from vae_study.report.formatting import metric_name, parameter_name
from vae_study.report.frames import Floats, Images

WIDTH = 6.0
# Of the colour scale, where a page takes it in steps.
STEPS = 9
# An axis with fewer is hard to read.
LEAST_TICKS = 3
# The least span of a colour scale of an AUROC or an average precision.
LEAST_AREA = 0.1
INK, GREY, FAINT, PAPER = "#1f2933", "#66707a", "#c3c9d0", "#ffffff"
# Blue against vermilion is the pair of Okabe and Ito's colours that every kind of colour-blindness keeps apart.
NORMAL, ANOMALY, CHOSEN = "#2a6f97", "#c8502d", "#c8502d"
# The same on the page, where they follow its mode, light or dark.
PAGE_COLOURS = {INK: "var(--ink)", GREY: "var(--soft)", FAINT: "var(--faint)", PAPER: "var(--card)",
                NORMAL: "var(--accent)", ANOMALY: "var(--care)", CHOSEN: "var(--care)"}  # fmt: skip
# Finished trials: whether they are on the frontier, and how these are named and coloured.
GROUPS = ((False, "finished", FAINT), (True, "on the frontier", NORMAL))
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
    """Viridis, dark for high, without its pale end, which is hard to see on white."""
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, 256))
    return LinearSegmentedColormap.from_list("report", colours)


def scale_colours(dark: bool) -> list[str]:
    """Steps of the scale for a page: in dark mode the other way round, bright for high, without the dark end."""
    shades = matplotlib.colormaps["viridis" if dark else "viridis_r"](np.linspace(0.2 if dark else 0.08, 1, STEPS))
    return [to_hex(shade) for shade in shades]


def figure(height: float) -> Picture:
    """An empty figure of the page's width, `height` inches high."""
    return Picture(figsize=(WIDTH, height))


def drawn(draw: Callable[[], Picture]) -> Picture:
    """A figure in the style, whatever the user's matplotlibrc says."""
    with style.context(["default", STYLE]):
        return draw()


def png(draw: Callable[[], Picture], dots_per_inch: int | None = None) -> bytes:
    """A figure's PNG, of the style's own size by default.

    It is drawn from matplotlib's defaults, not the user's matplotlibrc, and carries no date.
    """
    buffer = io.BytesIO()
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        draw().savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()


def log_scale(axes: Axes, which: str) -> None:
    """Make the axis "x" or "y" logarithmic, with numbers as people write them (0.1, 1, 10), not powers of ten."""
    axes.set(**{f"{which}scale": "log"})
    chosen = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(chosen.get_view_interval())
    chosen.set_major_locator(FixedLocator(log_ticks(max(low, 1e-300), high)))
    chosen.set_major_formatter(lambda value, _: f"{value:g}")
    chosen.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two ends; the powers alone, or round numbers, if these suit better."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    if sum(low <= tick <= high for tick in ticks) < LEAST_TICKS:
        ticks = [float(tick) for tick in MaxNLocator(4).tick_values(low, high)]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def colour_limits(metric: str, values: Floats) -> tuple[float, float]:
    """The ends of the scale of a metric's colours; of an area they are never so close that noise has all colours."""
    low, high = value_limits(values)
    if last_part(metric) in AREAS and high - low < LEAST_AREA:
        low = min(max((low + high - LEAST_AREA) / 2, 0.0), 1 - LEAST_AREA)
        high = low + LEAST_AREA
    return low, high


def colour_bar(axes: Axes, coloured: ScalarMappable, label: str) -> None:
    """The colour scale beside the axes."""
    axes.figure.colorbar(coloured, ax=axes, pad=0.02, aspect=32, label=label).outline.set_visible(False)


def ring(axes: Axes, x: ArrayLike, y: ArrayLike, label: str, size: float = 130, zorder: int = 4) -> None:
    """Mark the chosen trial, where it is among the points; `size` is its area in square points."""
    if np.size(x):
        axes.scatter(x, y, s=size, facecolors="none", edgecolors=CHOSEN, linewidths=1.8, zorder=zorder, label=label)


def scatter_groups(
    axes: Axes, x: ArrayLike, y: ArrayLike, on_frontier: ArrayLike, sizes: tuple[int, int] = (24, 30)
) -> None:
    """Finished trials as dots, those on the frontier in colour and on top; `sizes` are areas in square points."""
    for is_on, name, colour in GROUPS:
        some = np.asarray(on_frontier) == is_on
        axes.scatter(np.asarray(x)[some], np.asarray(y)[some], s=sizes[is_on], color=colour, edgecolors="none",
                     zorder=3 if is_on else 1, label=name)  # fmt: skip


def legend_above(axes: Axes, columns: int = 5, **more: Any) -> None:
    """The names of what is drawn in the axes, above the figure; nothing where nothing is named."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(handles, labels, loc="outside upper left", ncols=columns, **{"handletextpad": 0.3, **more})


def axis_name(name: str) -> str:
    """A metric's or a parameter's."""
    return metric_name(name) if "/" in name else parameter_name(name)


def short(text: str, longest: int = 18) -> str:
    """Text that leaves room for others."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def wrapped(text: str, width: int = 20) -> str:
    """Text in lines, broken after a dot, an underscore or a space."""
    lines = [""]
    for part in text.replace(".", ".\0").replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def padded(images: Images, size: int) -> Images:
    """A full row of `size` images; NaN, which is not drawn, where there is none."""
    empty = np.full((size - len(images), *images.shape[1:]), np.nan, np.float32)
    return np.concatenate([images[:size], empty])


def mosaic(images: Images, columns: int) -> Images:
    """Images of shape (N, H, W) or (N, H, W, 3) as one, row by row, one pixel apart and around (NaN, not drawn)."""
    rows = -(-len(images) // columns)
    _, high, wide, *channels = images.shape
    canvas = np.full((rows * (high + 1) + 1, columns * (wide + 1) + 1, *channels), np.nan, np.float32)
    for i, image in enumerate(images):
        top, left = i // columns * (high + 1) + 1, i % columns * (wide + 1) + 1
        canvas[top : top + high, left : left + wide] = image
    return canvas


def show(axes: Axes, canvas: Images, limits: tuple[float, float], colours: str = "gray") -> None:
    """Draws a mosaic, without axes."""
    low, high = limits
    if canvas.ndim == 3:
        canvas = np.nan_to_num(np.clip((canvas - low) / (high - low or 1), 0, 1), nan=1.0)
    axes.imshow(canvas, cmap=colours, vmin=low, vmax=high if high > low else low + 1, interpolation="nearest")
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def value_limits(values: Floats | Images) -> tuple[float, float]:
    """The lowest and the highest finite value, which are the ends of a scale of colours or greys; else 0 and 1."""
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
