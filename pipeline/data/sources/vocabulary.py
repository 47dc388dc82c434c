"""Distinct values, and their places."""

import math
from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

MISSING = -1


class Vocabulary:
    """The distinct values of a column, in the order in which batches bring them.

    Attributes:
        places: The place of each value.
        is_full: Whether there were more values than the limit; those beyond it have no place.
    """

    def __init__(self, plain: Callable[[Any], Any], limit: float = math.inf) -> None:
        self.places: dict[Any, int] = {}
        self.is_full = False
        self._plain, self._limit = plain, limit

    def codes(self, values: list[Any], local_N: NDArray[np.int32]) -> NDArray[np.int32]:
        """The places of a batch's values, -1 for a missing one.

        Args:
            values: The distinct values of the batch.
            local_N: Places in `values`, -1 where there is none.
        """
        # A pandas category may be declared and never occur, so only the values that do are given a place. The last
        # entry answers for the missing, whose place is -1.
        place_V = np.full(len(values) + 1, MISSING, np.int32)
        for place in np.unique(local_N[local_N >= 0]):
            place_V[place] = self._place(self._plain(values[place]))
        code_N: NDArray[np.int32] = place_V[local_N]
        return code_N

    def _place(self, value: Hashable | None) -> int:
        if value is None:
            return MISSING
        if value not in self.places and len(self.places) >= self._limit:
            self.is_full = True
            return MISSING
        return self.places.setdefault(value, len(self.places))

    def ranks(self) -> NDArray[np.int32]:
        """For each place the rank of its value among all values; a last entry of -1 for the missing, (V + 1,)."""
        rank_V = np.full(len(self.places) + 1, MISSING, np.int32)
        for rank, value in enumerate(self.sorted_values()):
            rank_V[self.places[value]] = rank
        return rank_V

    def sorted_values(self) -> list[Any]:
        """The values, in ascending order."""
        return sorted(self.places)


def encoded(column: Any) -> tuple[list[Any], NDArray[np.int32]]:
    """The distinct values of a pyarrow array, and each value's place among them (-1 where it is missing)."""
    if types.is_null(column.type):
        return [], np.full(len(column), MISSING, np.int32)
    if types.is_string_view(column.type):
        column = column.cast(pa.string())
    local = column if types.is_dictionary(column.type) else column.dictionary_encode()
    place_N = local.indices.cast(pa.int32()).fill_null(MISSING).to_numpy(zero_copy_only=False)
    return local.dictionary.to_pylist(), place_N


def plain_value(value: Any) -> Any:
    """A value as Python knows it: whole numbers as int, not-a-number as None."""
    if isinstance(value, float | Decimal):
        number = float(value)
        return None if math.isnan(number) else int(number) if number.is_integer() else number
    return value


def plain_text(value: Any) -> str | None:
    """A value as text; a merchant's number 7 reads the same whether its column is of integers or of floats."""
    value = plain_value(value)
    return None if value is None else str(value)
