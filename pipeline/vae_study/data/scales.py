"""Scales: map the values of a column to what a network takes, fitted on its training values, and back.

They compute in float64, from float32 or float64; only what is scaled is float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# More quantiles would not be visible in a histogram, and each is saved with every model.
LARGEST_RANKS = 1_000
# The square of a larger value is infinite in float32.
LARGEST_SCALED = 1e18
# As a fraction of the range; a smaller interquartile range is rounding, and dividing by it would give huge values.
SMALLEST_QUARTILES = 1e-9
# Values that differ by fewer units in the last place of float64 are one value, rounded in several ways.
NOISE_ULPS = 8
# As a fraction of a value: what float32, in which a file may have it, rounds off.
ROUNDED = 2**-20
# What counts as far off, in standard deviations.
FAR = 10.0


@dataclass(frozen=True, kw_only=True)
class Affine:
    """(x - offset) / width, clipped.

    Attributes:
        offset, width: In the units of the data.
        low, high: Scaled values are clipped to these.
    """

    offset: float
    width: float
    low: float
    high: float

    def __call__(self, x: NDArray[np.floating]) -> Floats:
        """Scale values in an array of any shape."""
        scaled = (x.astype(np.float64) - self.offset) / self.width
        cut: Floats = np.clip(scaled, self.low, self.high, out=scaled).astype(np.float32)
        return cut

    def inverse(self, scaled: Floats) -> NDArray[np.float64]:
        """Unscale values into the units of the data."""
        return scaled.astype(np.float64) * self.width + self.offset


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The fraction of training values below x, interpolated between some of train's quantiles.

    Attributes:
        values: Quantiles, strictly ascending, in the units of the data.
        levels: The fraction below each, strictly ascending from 0 to 1.
    """

    values: tuple[float, ...]
    levels: tuple[float, ...]

    def __call__(self, x: NDArray[np.floating]) -> Floats:
        """Scale values in an array of any shape; 0 and 1 beyond train's range."""
        scaled: Floats = np.interp(x, self.values, self.levels).astype(np.float32)
        return scaled

    def inverse(self, scaled: Floats) -> NDArray[np.float64]:
        """Unscale values into the units of the data."""
        return np.interp(scaled, self.levels, self.values)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """0 for the one value that all training rows have, and `other` for any other: how far it is off tells nothing.

    Attributes:
        value: In the units of the data.
        other: The scaled value of all others.
    """

    value: float
    other: float

    def __call__(self, x: NDArray[np.floating]) -> Floats:
        """Scale values in an array of any shape; NaN stays NaN. Whole numbers are never rounded."""
        off = np.abs(x.astype(np.float64) - self.value)
        is_whole = np.equal(np.rint(x), x) & float(self.value).is_integer()
        scaled = np.where(off > np.where(is_whole, 0, ROUNDED * abs(self.value)), self.other, 0.0)
        return np.where(np.isnan(off), np.nan, scaled).astype(np.float32)

    def inverse(self, scaled: Floats) -> NDArray[np.float64]:
        """The one value; NaN for what is nearer to `other`, as that may be any."""
        return np.where(scaled > self.other / 2, np.nan, self.value)


Scale = Affine | Ranks | Constant


def scale_from_plain(plain: Mapping[str, Any]) -> Scale:
    """The scale whose `dataclasses.asdict` is given, bit for bit."""
    if "levels" in plain:
        return Ranks(values=tuple(plain["values"]), levels=tuple(plain["levels"]))
    if "other" in plain:
        return Constant(**plain)
    return Affine(**plain)


def fit_column_scale(kind: str, x_N: NDArray[np.floating], clip: float | None) -> Scale:
    """Fit a scale to the training values of a column, as `fit_scale`; `Constant` if they are all the same."""
    if _varies(x_N):
        return fit_scale(kind, x_N, clip)
    is_within_1 = kind == "quantile" or (kind == "unit" and clip is None)
    return Constant(value=float(x_N[0]), other=1.0 if is_within_1 else clip or FAR)


def _varies(x_N: NDArray[np.floating]) -> bool:
    """Whether some of the values differ by more than rounding; whole numbers are never rounded."""
    low, high = float(x_N.min()), float(x_N.max())
    if x_N.dtype == np.float32 or (low.is_integer() and high.is_integer()):
        return low < high
    return high - low > NOISE_ULPS * float(np.spacing(max(abs(low), abs(high))))


def fit_scale(kind: str, x_N: NDArray[np.floating], clip: float | None) -> Scale:
    """Fit a scale to training values.

    Args:
        kind: `unit`, `standard`, `robust`, `quantile` or `none`, as DataConfig has it.
        x_N: At least one value, none of them NaN.
        clip: Scaled values are clipped to plus and minus this; None for the limits of the kind. `quantile` ignores it.
    """
    if kind == "quantile":
        return _ranks(x_N)
    offset, width = AFFINE[kind](x_N.astype(np.float64))
    limit = clip or LARGEST_SCALED
    low, high = (0.0, 1.0) if kind == "unit" and clip is None else (-limit, limit)
    # With a width of 0, values that differ outside train would become huge.
    return Affine(offset=float(offset), width=float(width) or 1.0, low=low, high=high)


def _unit(x_N: NDArray[np.float64]) -> tuple[float, float]:
    return x_N.min(), np.ptp(x_N)


def _standard(x_N: NDArray[np.float64]) -> tuple[float, float]:
    return x_N.mean(), x_N.std()


def _robust(x_N: NDArray[np.float64]) -> tuple[float, float]:
    low, middle, high = np.quantile(x_N, (0.25, 0.5, 0.75))
    # If most values are the same, such as zero amounts, the quartiles do not measure how the others vary.
    return middle, high - low if high - low > SMALLEST_QUARTILES * np.ptp(x_N) else x_N.std()


def _none(x_N: NDArray[np.float64]) -> tuple[float, float]:
    return 0.0, 1.0


AFFINE: Mapping[str, Callable[[NDArray[np.float64]], tuple[float, float]]] = {
    "unit": _unit,
    "standard": _standard,
    "robust": _robust,
    "none": _none,
}


def _ranks(x_N: NDArray[np.floating]) -> Ranks:
    last = len(x_N) - 1
    # Values of train rather than means of two: they stay distinct in float32.
    rank_Q = np.rint(np.linspace(0, last, min(len(x_N), LARGEST_RANKS))).astype(np.int64)
    values_U, first_U, count_U = np.unique(np.sort(x_N)[rank_Q], return_index=True, return_counts=True)
    # A value that many rows share gets the middle of their ranks.
    levels_U = (rank_Q[first_U] + rank_Q[first_U + count_U - 1]) / (2 * last or 1)
    levels_U[0], levels_U[-1] = 0, 1
    return Ranks(values=tuple(values_U.tolist()), levels=tuple(levels_U.tolist()))
