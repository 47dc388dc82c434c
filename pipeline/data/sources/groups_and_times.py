"""What splits the rows, gathered batch by batch: groups or times."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from pipeline.data.sources.kinds import is_instant, is_time
from pipeline.data.sources.problems import column_error, of_values, require_none_missing
from pipeline.data.sources.vocabulary import MISSING, Vocabulary, encoded, plain_value


class Groups:
    """A number for each row, the same for the rows of one group.

    Attributes:
        split_N: Int64.
    """

    def __init__(self, where: str, name: str, kind: Any, count: int) -> None:
        self.split_N = np.empty(count, np.int64)
        self._where, self._name = where, name
        # Whole numbers serve as they are: a dictionary of millions of accounts would outweigh the features.
        self._are_whole = types.is_integer(kind)
        self._vocabulary = Vocabulary(plain_value)
        self._missing = 0

    def add(self, start: int, batch: Any) -> None:
        """Put a batch at the rows from `start` on."""
        column = batch.column(self._name)
        if self._are_whole:
            self._missing += column.null_count
            group_N = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
        else:
            group_N = self._vocabulary.codes(*encoded(column))
            self._missing += int((group_N == MISSING).sum())
        self.split_N[start : start + len(group_N)] = group_N

    def finish(self) -> NDArray[np.int64]:
        """The groups, once all batches are in.

        Raises:
            UserError: Some are missing.
        """
        require_none_missing(self._where, self._name, self._missing, len(self.split_N), "a group")
        return self.split_N


class Times:
    """When each row happened.

    Attributes:
        split_N: Int64, nanoseconds or the column's own whole numbers; float64 where these are not whole.
    """

    def __init__(self, where: str, name: str, kind: Any, count: int) -> None:
        self._where, self._name = where, name
        self._target = self._common(kind)
        self._is_whole = not types.is_floating(self._target)
        self.split_N: NDArray[np.int64] | NDArray[np.float64]
        self.split_N = np.empty(count, np.int64) if self._is_whole else np.empty(count, np.float64)
        self._missing = self._infinite = 0

    def _common(self, kind: Any) -> Any:
        """The type whose 8 bytes are kept."""
        if is_instant(kind):
            return pa.timestamp("ns", kind.tz if types.is_timestamp(kind) else None)
        if is_time(kind):
            return pa.time64("ns") if types.is_time(kind) else pa.duration("ns")
        if types.is_integer(kind):
            return pa.int64()
        if types.is_floating(kind) or types.is_decimal(kind):
            return pa.float64()
        raise column_error(self._where, self._name, f"came {kind}, expected times or numbers for data.split.by time")

    def add(self, start: int, batch: Any) -> None:
        """Put a batch at the rows from `start` on.

        Raises:
            UserError: A time does not fit into 64 bits of nanoseconds.
        """
        column = batch.column(self._name)
        try:
            exact = column.cast(self._target)
        except pa.ArrowInvalid as error:
            said = f"a value does not fit into {self._target} ({error})"
            raise column_error(self._where, self._name, f"{said}; expected times between 1677 and 2262") from error
        time_N = (exact.cast(pa.int64()) if self._is_whole else exact).fill_null(0).to_numpy(zero_copy_only=False)
        self._missing += column.null_count + int(np.isnan(time_N).sum())
        self._infinite += int(np.isinf(time_N).sum())
        self.split_N[start : start + len(time_N)] = time_N

    def finish(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """The times, once all batches are in.

        Raises:
            UserError: Some are missing or infinite.
        """
        require_none_missing(self._where, self._name, self._missing, len(self.split_N), "a time")
        if self._infinite:
            said = of_values(self._infinite, len(self.split_N), "infinite")
            raise column_error(self._where, self._name, f"{said}; expected finite times")
        return self.split_N
