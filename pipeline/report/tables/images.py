"""Rows of numbers as images."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]


def image_shape(data: Any, features: int) -> tuple[int, ...] | None:
    """The data summary's image shape, None where it has none or does not hold this many features."""
    shape = tuple(int(side) for side in data.get("image_shape") or ())
    return shape if len(shape) in (2, 3) and int(np.prod(shape)) == features else None


def shaped(flat: Images, shape: tuple[int, ...] | None) -> Images:
    """Images with the channels last (and no axis for a single one), or rows as they are."""
    flat = flat.reshape(len(flat), -1)
    if shape is None:
        return flat
    images = flat.reshape(len(flat), *shape)
    if len(shape) == 3 and shape[0] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[-1] != 3:
        images = images[..., 0]
    return images
