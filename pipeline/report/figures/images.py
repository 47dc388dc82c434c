"""Many small images as one picture."""

import numpy as np
from matplotlib.axes import Axes

from pipeline.report.tables.images import Images


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


def grey_limits(images: Images) -> tuple[float, float]:
    """The values that are drawn black and white."""
    known = images[np.isfinite(images)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


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
