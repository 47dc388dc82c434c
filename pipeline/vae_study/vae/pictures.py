"""How like an image its reconstruction is, how sharp, and how far samples are from images: no network is needed.

Images are (N, C, H, W); where a structural similarity is asked for, their values lie in [0, 1].
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# Wang et al. 2003: the window and the weight of each scale, the finest first; the constants of Wang et al. 2004.
WINDOW, DEVIATION = 11, 1.5
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
# A power has no gradient at 0.
SMALLEST = 1e-6
# Of the sliced Wasserstein distance (Karras et al. 2018): the side of a patch, patches of an image, and projections.
PATCH, PATCHES, PROJECTIONS = 7, 16, 64


def scales_of(height: int, width: int) -> int:
    """How many scales an image has: each is half of the one before it, and only of the first a side is below WINDOW."""
    scales = 1
    while scales < len(WEIGHTS) and min(height, width) >> scales >= WINDOW:
        scales += 1
    return scales


def ms_ssim(x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
    """The multi-scale structural similarity of pairs of images (Wang et al. 2003, equation 7), (N,): 1 for equal ones.

    Each channel by itself, then their mean. Images smaller than the window have a smaller one and a single scale; the
    weights of fewer scales than five are made to add up to 1. A contrast below 0 counts as almost 0.
    """
    scales = scales_of(*x_NCHW.shape[-2:])
    total, found_NC = sum(WEIGHTS[:scales]), x_NCHW.new_ones(x_NCHW.shape[:2])
    for scale in range(scales):
        luminance_NC, contrast_NC = _similarity(x_NCHW, y_NCHW)
        value_NC = contrast_NC if scale < scales - 1 else luminance_NC
        found_NC = found_NC * value_NC.clamp(min=SMALLEST) ** (WEIGHTS[scale] / total)
        if scale < scales - 1:
            x_NCHW, y_NCHW = (functional.avg_pool2d(one, 2) for one in (x_NCHW, y_NCHW))
    return found_NC.mean(dim=1)


def _similarity(x_NCHW: Tensor, y_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over windows of luminance times contrast and structure, and of these two alone, each (N, C)."""
    window = _window(min(WINDOW, *x_NCHW.shape[-2:]))
    mean_x, mean_y = _filtered(x_NCHW, window), _filtered(y_NCHW, window)
    variance_x = _filtered(x_NCHW.square(), window) - mean_x.square()
    variance_y = _filtered(y_NCHW.square(), window) - mean_y.square()
    covariance = _filtered(x_NCHW * y_NCHW, window) - mean_x * mean_y
    contrast = (2 * covariance + CONTRAST) / (variance_x + variance_y + CONTRAST)
    luminance = (2 * mean_x * mean_y + LUMINANCE) / (mean_x.square() + mean_y.square() + LUMINANCE)
    return (luminance * contrast).mean(dim=(2, 3)), contrast.mean(dim=(2, 3))


def _window(size: int) -> list[float]:
    """Weights of a normal distribution at an odd number of pixels, at most `size`; they add up to 1."""
    places = np.arange(size - (size + 1) % 2)
    weights = np.exp(-0.5 * ((places - places.mean()) / DEVIATION) ** 2)
    return list((weights / weights.sum()).tolist())


def _filtered(x_NCHW: Tensor, window: list[float]) -> Tensor:
    """The weighted means over windows that lie inside the image.

    Sums, not a convolution, whose kernels round in another way for another number of images.
    """
    for dim in (2, 3):
        length = x_NCHW.shape[dim] - len(window) + 1
        parts = (weight * x_NCHW.narrow(dim, place, length) for place, weight in enumerate(window))
        x_NCHW = sum(parts, start=x_NCHW.new_zeros(()))
    return x_NCHW


def detail(x_NCHW: Tensor) -> Tensor:
    """The energy of the fine detail of each image, (N,): the sum of squares of the Laplacian of its inner pixels."""
    inner, sides = x_NCHW[..., 1:-1, 1:-1], (x_NCHW[..., :-2, 1:-1], x_NCHW[..., 2:, 1:-1])
    across = x_NCHW[..., 1:-1, :-2] + x_NCHW[..., 1:-1, 2:]
    return (sides[0] + sides[1] + across - 4 * inner).square().sum(dim=(1, 2, 3))


def patch_distance(x_NCHW: NDArray[np.float64], y_NCHW: NDArray[np.float64], seed: int = 0) -> float:
    """The sliced Wasserstein distance between the patches of two sets of images (Karras et al. 2018, section 5).

    At each scale, what the next coarser one does not have of an image is cut into patches at random places; the two
    sets are made to have mean 0 and variance 1 by those of the second. The distance is the mean over random directions
    of the mean difference between sorted projections, and the mean over scales.

    Args:
        x_NCHW, y_NCHW: As many images as each other.
        seed: Of places and directions.
    """
    random = np.random.default_rng(seed)
    pairs = zip(_pyramid(torch.as_tensor(x_NCHW)), _pyramid(torch.as_tensor(y_NCHW)), strict=True)
    return float(np.mean([_projected(*pair, random) for pair in pairs]))


def _pyramid(x_NCHW: Tensor) -> Iterator[NDArray[np.float64]]:
    """What each scale has that the next coarser one has not, the finest first; the coarsest itself."""
    for _ in range(scales_of(*x_NCHW.shape[-2:]) - 1):
        coarser = functional.avg_pool2d(x_NCHW, 2)
        yield (x_NCHW - functional.interpolate(coarser, size=x_NCHW.shape[-2:])).numpy()
        x_NCHW = coarser
    yield x_NCHW.numpy()


def _projected(x_NCHW: NDArray[np.float64], y_NCHW: NDArray[np.float64], random: np.random.Generator) -> float:
    height, width = (min(PATCH, side) for side in x_NCHW.shape[-2:])
    windows = [np.lib.stride_tricks.sliding_window_view(one, (height, width), (2, 3)) for one in (x_NCHW, y_NCHW)]
    rows, columns = windows[0].shape[2:4]
    places = (random.integers(rows, size=PATCHES), random.integers(columns, size=PATCHES))
    x_PD, y_PD = (one[:, :, places[0], places[1]].swapaxes(1, 2).reshape(-1, x_NCHW.shape[1] * height * width)
                  for one in windows)  # fmt: skip
    mean_D, deviation_D = y_PD.mean(axis=0), y_PD.std(axis=0)
    direction_DJ = random.normal(size=(x_PD.shape[1], PROJECTIONS))
    direction_DJ /= np.linalg.norm(direction_DJ, axis=0)
    scale_D = np.where(deviation_D > 0, deviation_D, 1)
    sorted_PJ = [np.sort((one - mean_D) / scale_D @ direction_DJ, axis=0) for one in (x_PD, y_PD)]
    return float(np.abs(sorted_PJ[0] - sorted_PJ[1]).mean())
