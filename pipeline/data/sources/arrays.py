"""From arrays that came whole to a Table."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.sources.labels import labels_of
from pipeline.data.sources.numbers import require_finite
from pipeline.data.table import Label, Table
from pipeline.errors import UserError

_CHANNELS = (1, 3)


def table_of(
    x: Any, label_N: Any, *, where: str, names: tuple[str, str] = ("X", "y"), has_binary_labels: bool = False
) -> Table:
    """A table from an array of features and one of labels.

    Args:
        x: Numbers: (N, D) rows, (N, H, W) images, or (N, C, H, W) or (N, H, W, C) with 1 or 3 channels.
        label_N: One label a row, or None.
        where: What to call their source.
        names: What the two arrays are called in it.
        has_binary_labels: See Table.

    Raises:
        UserError: A shape, a type or a value is not as it must be.
    """
    array = _numbers(x, where, names[0])
    flat_ND, image_shape, notes = _flattened(array, where, names[0])
    label: NDArray[np.int32] | None = None
    labels: tuple[Label, ...] = ()
    if label_N is not None:
        label, labels = labels_of(where, names[1], one_a_row(label_N, len(array), where, names))
    feature_names = _feature_names(flat_ND.shape[1], image_shape)
    return Table(
        x_ND=as_float32(flat_ND, where, [f"feature {name!r} of array {names[0]!r}" for name in feature_names]),
        feature_names=feature_names,
        label_N=label,
        labels=labels,
        image_shape=image_shape,
        has_binary_labels=has_binary_labels,
        where=where,
        notes=notes,
    )


def pixel_names(image_shape: tuple[int, ...]) -> tuple[str, ...]:
    """A name for each value of an image: its channel if there are several, its row and its column."""
    return tuple("_".join(("pixel", *map(str, place))) for place in product(*map(range, image_shape)))


def _feature_names(count: int, image_shape: tuple[int, ...] | None) -> tuple[str, ...]:
    return tuple(f"x{number}" for number in range(count)) if image_shape is None else pixel_names(image_shape)


def _numbers(x: Any, where: str, name: str) -> NDArray[Any]:
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise UserError(f"{where}: array {name!r}: rows of different lengths; expected an array of numbers") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"{where}: array {name!r}: came {array.dtype}, expected numbers")
    if array.ndim not in (2, 3, 4):
        raise UserError(
            f"{where}: array {name!r}: came shape {array.shape}, expected (N, D), (N, H, W) or (N, C, H, W)"
        )
    if not array.size:
        raise UserError(
            f"{where}: array {name!r}: came shape {array.shape}, which holds nothing; expected at least one row"
        )
    return array


def _flattened(
    array: NDArray[Any], where: str, name: str
) -> tuple[NDArray[Any], tuple[int, ...] | None, tuple[str, ...]]:
    """Rows, channel by channel; the image shape; notes."""
    notes: tuple[str, ...] = ()
    if array.ndim == 4:
        came = array.shape
        first, last = came[1] in _CHANNELS, came[3] in _CHANNELS
        if not first and not last:
            raise UserError(f"{where}: array {name!r}: came shape {came}, expected 1 or 3 channels, first or last")
        if first and last:
            notes = (f"array {name!r} of shape {came} was read as (N, C, H, W), channels first",)
        array = array if first else np.moveaxis(array, 3, 1)
        array = array[:, 0] if array.shape[1] == 1 else array
    shape = None if array.ndim == 2 else array.shape[1:]
    return array.reshape(len(array), -1), shape, notes


def as_float32(x_ND: NDArray[Any], where: str, names: Sequence[str]) -> NDArray[np.float32]:
    """The same numbers in float32.

    Args:
        x_ND: Numbers of any kind.
        where: Their source.
        names: What to call each feature.

    Raises:
        UserError: One is infinite, or too large for float32.
    """
    with np.errstate(over="ignore"):
        narrow_ND: NDArray[np.float32] = np.ascontiguousarray(x_ND, np.float32)
    unbounded_D = np.isinf(narrow_ND).sum(axis=0)
    if unbounded_D.any():
        infinite_D = np.isinf(x_ND).sum(axis=0)
        require_finite(where, names, len(x_ND), infinite_D, unbounded_D - infinite_D)
    return narrow_ND


def one_a_row(label_N: Any, count: int, where: str, names: tuple[str, str]) -> Any:
    """Labels as one value for each of `count` rows.

    Raises:
        UserError: There are more or fewer.
    """
    # Numpy would turn a list of words and numbers into words.
    kind = object if isinstance(label_N, list | tuple) else None
    values = label_N if isinstance(label_N, pd.Series) else np.asarray(label_N, kind)
    if values.ndim == 2 and values.shape[1] == 1:
        values = np.asarray(values)[:, 0]
    if values.ndim != 1 or len(values) != count:
        came = f"array {names[1]!r}: came shape {tuple(values.shape)}"
        raise UserError(f"{where}: {came}, expected ({count},), a label for each row of {names[0]!r}")
    return values
