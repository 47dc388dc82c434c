"""From a table's rows to features: which column of this table feeds which part of what was fitted."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocessing.categories import CategoryColumn
from pipeline.data.preprocessing.missing import chunks
from pipeline.data.preprocessing.numbers import NumberColumn
from pipeline.data.preprocessing.pixels import Pixels
from pipeline.data.preprocessing.scales import Floats
from pipeline.data.table import Table
from pipeline.errors import UserError

Rows = NDArray[np.int64]
# Gives the features of some rows, (N, F).
Encoder = Callable[[Rows], Floats]


def encoded(encoders: Sequence[Encoder], rows_N: Rows, width: int) -> Floats:
    """The features of all encoders side by side, (N, width), some rows at a time."""
    x_ND = np.empty((len(rows_N), width), np.float32)
    done = 0
    for part in chunks(rows_N):
        np.concatenate([encode(part) for encode in encoders], axis=1, out=x_ND[done : done + len(part)])
        done += len(part)
    return x_ND


def pixel_encoder(pixels: Pixels, table: Table) -> Encoder:
    """The one encoder of images.

    Raises:
        UserError: The table has no images, or some of another size.
    """
    if table.image_shape != pixels.image_shape:
        came = "no images" if table.image_shape is None else f"images of {_size(table.image_shape)}"
        raise UserError(f"{table.where}: came {came}, expected images of {_size(pixels.image_shape)} pixels")
    return lambda rows_N: pixels.scale(table.x_ND[rows_N])


def column_encoders(
    numbers: Sequence[NumberColumn], categories: Sequence[CategoryColumn], table: Table
) -> Iterator[Encoder]:
    """An encoder for each column that is a feature, found in the table by its name.

    Raises:
        UserError: A column is not in the table, or is of the other kind there.
    """
    number_at = {name: place for place, name in enumerate(table.feature_names)}
    category_at = {name: place for place, name in enumerate(table.category_names)}
    used_numbers = [column for column in numbers if column.features]
    used_categories = [column for column in categories if column.features]
    wrong = [
        *_absent([column.name for column in used_numbers], number_at, category_at, "categories, expected numbers"),
        *_absent([column.name for column in used_categories], category_at, number_at, "numbers, expected categories"),
    ]
    if wrong:
        raise UserError(f"{table.where}: {', '.join(wrong)}; expected every column that the model was trained on")
    yield from (_number_encoder(column, table, number_at[column.name]) for column in used_numbers)
    yield from (_category_encoder(column, table, category_at[column.name]) for column in used_categories)


def _absent(names: Sequence[str], found: Mapping[str, int], other: Mapping[str, int], as_other: str) -> Iterator[str]:
    for name in names:
        if name not in found:
            yield f"column {name!r} came as {as_other}" if name in other else f"no column {name!r}"


def _number_encoder(column: NumberColumn, table: Table, place: int) -> Encoder:
    return lambda rows_N: column.encode(table.x_ND[rows_N, place])


def _category_encoder(column: CategoryColumn, table: Table, place: int) -> Encoder:
    place_V = column.places(table.categories[place])
    return lambda rows_N: column.encode(place_V[table.code_NC[rows_N, place]])


def _size(image_shape: tuple[int, ...]) -> str:
    return "x".join(map(str, image_shape))
