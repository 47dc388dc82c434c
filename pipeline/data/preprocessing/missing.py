"""Missing values: how many there are, and the refusal of them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

# Few enough to stay in a processor's cache, many enough to keep Python out of the time.
ROWS_PER_CHUNK = 16_384
# A message stays readable.
LARGEST_LIST = 5
IN_IMAGES = "none in an image"


def chunks(rows_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row numbers in parts, so that what is computed of them stays small."""
    return [rows_N[start : start + ROWS_PER_CHUNK] for start in range(0, len(rows_N), ROWS_PER_CHUNK)]


def missing_counts(table: Table, rows_N: NDArray[np.int64] | None = None) -> dict[str, int]:
    """How many of some rows, by default all, have no value, for each column where that happens."""
    counts_D = np.zeros(len(table.feature_names), np.int64)
    counts_C = np.zeros(len(table.category_names), np.int64)
    for part in chunks(np.arange(len(table.x_ND)) if rows_N is None else rows_N):
        counts_D += np.isnan(table.x_ND[part]).sum(axis=0)
        if table.category_names:
            counts_C += (table.code_NC[part] < 0).sum(axis=0)
    names = (*table.feature_names, *table.category_names)
    counts = zip(names, [*counts_D.tolist(), *counts_C.tolist()], strict=True)
    return {name: count for name, count in counts if count}


def require_complete(table: Table, spec: DataSpec, rows_N: NDArray[np.int64] | None = None) -> None:
    """Nothing where missing values are welcome; an image can never lack some.

    Raises:
        UserError: Some of the rows, by default of all, lack a value.
    """
    if table.image_shape is not None:
        refuse_missing(table.where, missing_counts(table, rows_N), IN_IMAGES)
    elif spec.missing == "refuse":
        refuse_missing(table.where, missing_counts(table, rows_N))


def refuse_missing(where: str, counts: Mapping[str, int], expected: str = "none, or data.missing: median") -> None:
    """Nothing where nothing is missing.

    Raises:
        UserError: With the columns and how many values each lacks.
    """
    if counts:
        named = [f"column {name!r} {count:,}" for name, count in list(counts.items())[:LARGEST_LIST]]
        more = f" and {len(counts) - LARGEST_LIST} columns more" if len(counts) > LARGEST_LIST else ""
        raise UserError(f"{where}: missing values in {', '.join(named)}{more}; expected {expected}")
