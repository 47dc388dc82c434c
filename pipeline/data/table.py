"""Examples as they came, before preprocessing and splitting: what every source gives."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Label = bool | int | float | str


def _no_codes() -> NDArray[np.int32]:
    return np.zeros((0, 0), np.int32)


@dataclass(frozen=True, kw_only=True)
class Table:
    """N examples: numbers, categories, labels, and what splits them.

    Attributes:
        x_ND: The D numeric features, float32, NaN where a value is missing; never infinite.
        feature_names: D names.
        code_NC: The C categorical features as places in `categories`, int32, -1 where a value is missing; (0, 0) where
            there are none.
        category_names: C names.
        categories: The distinct values of each categorical feature, as text, sorted.
        label_N: Places in `labels`, int32; None where there are no labels.
        labels: The distinct labels, sorted.
        split_N: The split column: group numbers (int64) or times (int64 or float64, ascending in time); None where the
            spec names no column.
        image_shape: Height and width, with the channels before them if there are any, where the features are pixels,
            channel by channel and row by row; else None.
        has_binary_labels: Whether labels are of the kind where 1 means anomalous (files), rather than classes.
        where: What to call the source in a message, such as "transactions.parquet".
        notes: What a user should know of the reading, such as ignored columns.
    """

    x_ND: NDArray[np.float32]
    feature_names: tuple[str, ...]
    code_NC: NDArray[np.int32] = field(default_factory=_no_codes)
    category_names: tuple[str, ...] = ()
    categories: tuple[tuple[str, ...], ...] = ()
    label_N: NDArray[np.int32] | None = None
    labels: tuple[Label, ...] = ()
    split_N: NDArray[np.int64] | NDArray[np.float64] | None = None
    image_shape: tuple[int, ...] | None = None
    has_binary_labels: bool = False
    where: str
    notes: tuple[str, ...] = ()
