"""Values that a model cannot take, and in which rows they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sources.problems import column_error
from pipeline.data.table import Table
from pipeline.errors import UserError

_ROWS_SHOWN = 3


def refuse(where: str, column: str, first: int, is_bad_N: NDArray[np.bool_], came: str, expected: str) -> UserError:
    """An error that names the first bad rows, counted from 1.

    Args:
        where: The source.
        column: The column.
        first: The place of the first of N rows in the source, from 0.
        is_bad_N: Which of them are bad.
        came: What came there.
        expected: What was expected, in words.
    """
    rows_N = np.flatnonzero(is_bad_N) + first + 1
    shown = ", ".join(f"{row:,}" for row in rows_N[:_ROWS_SHOWN]) + ", ..." * (len(rows_N) > _ROWS_SHOWN)
    return column_error(where, column, f"{came} in row{'s' * (len(rows_N) > 1)} {shown}; {expected}")


def require_finite(where: str, column: str, first: int, value_N: NDArray[np.float32], is_infinite: Any) -> None:
    """Nothing, where no value is infinite.

    Args:
        where: The source.
        column: The column.
        first: The place of the first of N rows in the source, from 0.
        value_N: The values.
        is_infinite: Which of them are infinite as they came; a pyarrow array.

    Raises:
        UserError: One is, as it came or in float32.
    """
    infinite_N = is_infinite.fill_null(False).to_numpy(zero_copy_only=False)
    if infinite_N.any():
        raise refuse(where, column, first, infinite_N, "infinite", "expected finite numbers")
    if np.isinf(value_N).any():
        expected = "expected at most 3.4e38 in size"
        raise refuse(where, column, first, np.isinf(value_N), "too large for float32", expected)


def require_values(preprocessing: Preprocessing, table: Table, first: int) -> None:
    """Nothing, where no value is missing, or missing values are welcome.

    Args:
        preprocessing: What the model's features are made by.
        table: N rows.
        first: The place of the first of them in the source, from 0.

    Raises:
        UserError: One is missing where the training data had none and was to have none.
    """
    if preprocessing.missing == "median":
        return
    used = {column.name for column in preprocessing.columns if column.features}
    for place, name in enumerate(table.feature_names):
        if (preprocessing.pixels or name in used) and np.isnan(table.x_ND[:, place]).any():
            raise _missing(table, name, first, np.isnan(table.x_ND[:, place]))
    for place, name in enumerate(table.category_names):
        if name in used and (table.code_NC[:, place] < 0).any():
            raise _missing(table, name, first, table.code_NC[:, place] < 0)


def _missing(table: Table, name: str, first: int, is_missing_N: NDArray[np.bool_]) -> UserError:
    expected = "expected none, as in the training data (data.missing: refuse)"
    return refuse(table.where, name, first, is_missing_N, "no value", expected)
