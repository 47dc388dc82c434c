"""The pixels of images: D columns with one scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocessing.missing import chunks
from pipeline.data.preprocessing.scales import Floats, Scale, fit_scale, scale_from
from pipeline.spec.data import DataSpec

# 64 MB of float32: a sample of pixels that fixes every moment and quantile to more digits than matter.
LARGEST_SAMPLE = 2**24


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """What train showed of the pixels, one scale for all: one that is dark in every training image stays comparable.

    Attributes:
        features: D names.
        image_shape: Height and width, with the channels before them if there are any.
    """

    features: tuple[str, ...]
    image_shape: tuple[int, ...]
    scale: Scale

    @classmethod
    def fit(
        cls,
        features: tuple[str, ...],
        image_shape: tuple[int, ...],
        x_ND: Floats,
        rows_N: NDArray[np.int64],
        spec: DataSpec,
    ) -> Self:
        """Look at the training images, those in `rows_N`."""
        scale = fit_scale(spec.scale, _sample(x_ND, rows_N), spec.clip)
        return cls(features=features, image_shape=image_shape, scale=scale)

    def decode(self, x_ND: Floats) -> Floats:
        """The raw pixels that features stand for."""
        return self.scale.inverse(x_ND)

    def plain(self) -> dict[str, Any]:
        """Dictionaries, numbers and text, for `from_plain`."""
        shape = list(self.image_shape)
        return {"features": list(self.features), "image_shape": shape, "scale": self.scale.plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The pixels that `plain` was made from."""
        features, shape = tuple(plain["features"]), tuple(plain["image_shape"])
        return cls(features=features, image_shape=shape, scale=scale_from(plain["scale"]))


def _sample(x_ND: Floats, rows_N: NDArray[np.int64]) -> Floats:
    """All pixels of evenly spaced images, as many as there is room for; both ends of the range are among them."""
    step = -(-len(rows_N) * x_ND.shape[1] // LARGEST_SAMPLE)
    if step <= 1:
        return x_ND[rows_N].ravel()
    ends = [(part.min(), part.max()) for part in (x_ND[rows] for rows in chunks(rows_N))]
    return np.append(x_ND[rows_N[::step]].ravel(), np.array(ends, np.float32).ravel())
