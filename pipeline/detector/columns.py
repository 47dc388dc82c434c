"""From what features cost to what a user's columns cost."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.data import Preprocessing

Floats = NDArray[np.float64]


def column_names(preprocessing: Preprocessing) -> list[str]:
    """The user's columns that are features, in the order of those; of images the pixels."""
    if preprocessing.pixels is not None:
        return [*preprocessing.feature_names]
    return [column.name for column in preprocessing.columns if column.features]


def per_column(preprocessing: Preprocessing, nats_ND: Floats) -> Iterator[Floats]:
    """What each of `column_names` costs N rows: the sum over its features."""
    if preprocessing.pixels is not None:
        yield from nats_ND.T
        return
    first = 0
    for column in preprocessing.columns:
        width = len(column.features)
        if width:
            yield nats_ND[:, first : first + width].sum(axis=1)
        first += width
