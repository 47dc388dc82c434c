"""Where examples come from: each source is a function that gives a Table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits


@dataclass(frozen=True, kw_only=True)
class Table:
    """Examples as they came, before scaling and splitting.

    Attributes:
        x_ND: N rows with D features, float32.
        label_N: The label of each row.
        feature_names: D names.
        image_shape: Height and width, with the channels before them if there are any, where the features are pixels,
            channel by channel and row by row; else None.
    """

    x_ND: NDArray[np.float32]
    label_N: NDArray[Any]
    feature_names: tuple[str, ...]
    image_shape: tuple[int, ...] | None = None


def _digits() -> Table:
    """1,797 handwritten digits of 8x8 pixels with values 0 to 16, bundled with scikit-learn."""
    bunch = load_digits()
    return Table(
        x_ND=bunch.data.astype(np.float32),
        label_N=bunch.target,
        feature_names=tuple(bunch.feature_names),
        image_shape=(8, 8),
    )


def _breast_cancer() -> Table:
    """569 tumours with 30 measurements, bundled with scikit-learn; label 0 is malignant."""
    bunch = load_breast_cancer()
    return Table(
        x_ND=bunch.data.astype(np.float32), label_N=bunch.target, feature_names=tuple(map(str, bunch.feature_names))
    )


SOURCES: Mapping[str, Callable[[], Table]] = {"digits": _digits, "breast_cancer": _breast_cancer}
