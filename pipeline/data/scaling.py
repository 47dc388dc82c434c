"""Scaling fitted on the training rows only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Scaler:
    """(x - offset) / width, per feature, then clipped to `bounds`.

    Attributes:
        offset_D, width_D: In the units of the data; a constant feature has width 1.
        bounds: Where scaled values are cut off, in scaled units.
    """

    offset_D: Floats
    width_D: Floats
    bounds: tuple[float, float]

    def __call__(self, x_ND: Floats) -> Floats:
        """Scale N rows of D features."""
        scaled_ND: Floats = np.clip((x_ND - self.offset_D) / self.width_D, *self.bounds).astype(np.float32)
        return scaled_ND


UNBOUNDED = (-np.inf, np.inf)


def _nonzero(width_D: NDArray[np.floating]) -> Floats:
    return np.where(width_D > 0, width_D, 1).astype(np.float32)


def _unit(x_ND: Floats, is_image: bool) -> Scaler:
    # The pixels of an image share one range: a pixel that is dark in every training image stays comparable.
    axis = None if is_image else 0
    low, high = x_ND.min(axis=axis), x_ND.max(axis=axis)
    shape = x_ND.shape[1]
    offset_D = np.broadcast_to(low, shape).astype(np.float32)
    return Scaler(offset_D=offset_D, width_D=_nonzero(np.broadcast_to(high - low, shape)), bounds=(0, 1))


def _standard(x_ND: Floats, is_image: bool) -> Scaler:
    # In float32 the mean of a constant feature is a little off, and the width hardly above 0 in place of 0.
    exact_ND = x_ND.astype(np.float64)
    offset_D = exact_ND.mean(axis=0).astype(np.float32)
    return Scaler(offset_D=offset_D, width_D=_nonzero(exact_ND.std(axis=0)), bounds=UNBOUNDED)


def _none(x_ND: Floats, is_image: bool) -> Scaler:
    zeros_D = np.zeros(x_ND.shape[1], np.float32)
    return Scaler(offset_D=zeros_D, width_D=zeros_D + 1, bounds=UNBOUNDED)


SCALES: Mapping[str, Callable[[Floats, bool], Scaler]] = {"unit": _unit, "standard": _standard, "none": _none}
