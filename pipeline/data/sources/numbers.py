"""The numeric features of a table, gathered batch by batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.sources.problems import of_values
from pipeline.errors import UserError


class Numbers:
    """The numeric features, in the one array that is ever made of them.

    Attributes:
        x_ND: Float32, NaN where a value is missing.
    """

    def __init__(self, where: str, names: Sequence[str], count: int) -> None:
        self.x_ND = np.empty((count, len(names)), np.float32)
        self._where, self._names = where, names
        self._infinite_D = np.zeros(len(names), np.int64)
        self._too_large_D = np.zeros(len(names), np.int64)

    def add(self, start: int, batch: Any) -> None:
        """Put a batch at the rows from `start` on."""
        for place, name in enumerate(self._names):
            column = batch.column(name)
            value_N = column.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
            self.x_ND[start : start + len(value_N), place] = value_N
            unbounded = int(np.isinf(value_N).sum())
            if unbounded:
                infinite = int(pc.sum(pc.is_inf(column.cast(pa.float64(), safe=False))).as_py())
                self._infinite_D[place] += infinite
                self._too_large_D[place] += unbounded - infinite

    def require_finite(self) -> None:
        """Nothing, where no value is infinite.

        Raises:
            UserError: One is, as it came or in float32.
        """
        columns = [f"column {name!r}" for name in self._names]
        require_finite(self._where, columns, len(self.x_ND), self._infinite_D, self._too_large_D)


def require_finite(
    where: str,
    columns: Sequence[str],
    count: int,
    infinite_D: NDArray[np.int64],
    too_large_D: NDArray[np.int64],
) -> None:
    """Nothing, where no feature has an infinite value.

    Args:
        where: The file.
        columns: What to call each feature.
        count: The number of rows.
        infinite_D: How many values of each feature are infinite.
        too_large_D: How many are finite, and infinite in float32.

    Raises:
        UserError: Some are.
    """
    for name, infinite, too_large in zip(columns, infinite_D, too_large_D, strict=True):
        if infinite:
            said = of_values(int(infinite), count, "infinite")
            raise UserError(f"{where}: {name}: {said}; expected finite numbers")
        if too_large:
            said = of_values(int(too_large), count, "too large for float32")
            raise UserError(f"{where}: {name}: {said}; expected at most 3.4e38 in size")
