"""Distinct values and their indices; and columns that are no features: labels, factors, groups and times."""

import math
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from vae_study.data.sources.files import column_error, no_such, of_values
from vae_study.data.sources.source import Rows, is_number, is_text, is_time
from vae_study.data.table import Factor, Label

LABEL_LIMIT = 1_000
MISSING = -1


class CategoryIndex:
    """Numbers the distinct values of a column in the order in which batches bring them.

    Attributes:
        index_of: The index of each value.
        is_full: Whether there were more values than the limit; those beyond it count as missing.
    """

    def __init__(self, normalize: Callable[[Any], Hashable | None], limit: float = math.inf) -> None:
        """Start without values.

        Args:
            normalize: Gives the value that counts for one that came; None for a missing one.
            limit: The largest number of distinct values.
        """
        self.index_of: dict[Any, int] = {}
        self.is_full = False
        self._normalize, self._limit = normalize, limit

    def codes(self, values: Sequence[Any], local_N: NDArray[np.int32]) -> NDArray[np.int32]:
        """The indices of a batch's values, -1 for a missing one.

        Args:
            values: The distinct values of the batch.
            local_N: Indices into `values`, -1 for a missing one.
        """
        # Only values that occur get an index: pandas may declare categories that do not. The last entry is for -1.
        index_V = np.full(len(values) + 1, MISSING, np.int32)
        for local in np.unique(local_N[local_N >= 0]):
            index_V[local] = self._index(self._normalize(values[local]))
        code_N: NDArray[np.int32] = index_V[local_N]
        return code_N

    def _index(self, value: Hashable | None) -> int:
        if value is None:
            return MISSING
        if value not in self.index_of and len(self.index_of) >= self._limit:
            self.is_full = True
            return MISSING
        return self.index_of.setdefault(value, len(self.index_of))

    def ranks(self) -> NDArray[np.int32]:
        """For each index the rank of its value among the sorted values; a last entry of -1 for missing, (V + 1,)."""
        rank_V = np.full(len(self.index_of) + 1, MISSING, np.int32)
        for rank, value in enumerate(self.sorted_values()):
            rank_V[self.index_of[value]] = rank
        return rank_V

    def sorted_values(self) -> tuple[Any, ...]:
        """The values, in ascending order."""
        return tuple(sorted(self.index_of))


def dictionary_encoded(column: Any) -> tuple[list[Any], NDArray[np.int32]]:
    """The distinct values of a pyarrow array, and the index of each value among them, -1 for a missing one."""
    if types.is_null(column.type):
        return [], np.full(len(column), MISSING, np.int32)
    if types.is_string_view(column.type):
        column = column.cast(pa.string())
    local = column if types.is_dictionary(column.type) else column.dictionary_encode()
    local_N = local.indices.cast(pa.int32()).fill_null(MISSING).to_numpy(zero_copy_only=False)
    return local.dictionary.to_pylist(), local_N


def plain_value(value: Any) -> Any:
    """A value as Python knows it: whole numbers as int, not-a-number as None."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    if isinstance(value, Decimal):
        # As a float only if it is the same number, so that no two labels or groups become one.
        number = float(value)
        return int(value) if value == value.to_integral_value() else number if Decimal(repr(number)) == value else value
    return value


def plain_text(value: Any) -> str | None:
    """A value as text: the number 7 is "7" in a column of integers and in one of floats."""
    value = plain_value(value)
    return None if value is None else format(value, "f") if isinstance(value, Decimal) else str(value)


class Labels:
    """Collects the label of each of `count` rows."""

    def __init__(self, where: str, name: str, count: int) -> None:
        self._label_N = np.full(count, MISSING, np.int32)
        self._index = CategoryIndex(plain_value, LABEL_LIMIT)
        self._where, self._name = where, name

    def add(self, start: int, column: Any) -> None:
        """Take a batch, a pyarrow array, for the rows from `start` on."""
        self._label_N[start : start + len(column)] = self._index.codes(*dictionary_encoded(column))

    def finish(self) -> tuple[NDArray[np.int32], tuple[Label, ...]]:
        """The index of each row's label among the sorted labels, and these.

        Raise UserError if a label is missing or infinite, or if there are too many.
        """
        count = len(self._label_N)
        if self._index.is_full:
            said = f"more than {LABEL_LIMIT:,} distinct labels in {count:,} rows (is it a regression target?);"
            raise column_error(self._where, self._name, f"{said} expected classes")
        _require_none_missing(self._where, self._name, int((self._label_N == MISSING).sum()), count, "a label")
        unbounded = [index for label, index in self._index.index_of.items() if label in (np.inf, -np.inf)]
        if unbounded:
            said = of_values(int(np.isin(self._label_N, unbounded).sum()), count, "infinite")
            raise column_error(self._where, self._name, f"{said}; expected classes")
        return self._index.ranks()[self._label_N], self._index.sorted_values()


def labels_of_array(where: str, name: str, values: Any) -> tuple[NDArray[np.int32], tuple[Label, ...]]:
    """The same for labels that came as one array, series or list.

    Raise UserError if they cannot be labels.

    Args:
        where: The file.
        name: What the labels are called in it.
        values: One per row.
    """
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise column_error(where, name, f"labels of mixed or unknown type ({error})") from error
    require_label_type(where, name, column.type)
    labels = Labels(where, name, len(column))
    labels.add(0, column)
    return labels.finish()


def require_label_type(where: str, name: str, dtype: Any, what: str = "labels") -> None:
    """Raise UserError if a pyarrow type cannot hold labels, or what messages call them."""
    inner = dtype.value_type if types.is_dictionary(dtype) else dtype
    if not is_text(inner) and not is_number(inner):
        raise column_error(where, name, f"got {dtype}, expected {what}: numbers, true and false, or text")


class Groups:
    """Collects a number for each of `count` rows, the same for the rows of one group."""

    def __init__(self, where: str, name: str, dtype: Any, count: int) -> None:
        self._group_N = np.empty(count, np.int64)
        self._where, self._name = where, name
        # Whole numbers serve as they are: an index of millions of accounts would need more memory than the features.
        self._are_whole = types.is_integer(dtype)
        self._index = CategoryIndex(plain_value)
        self._missing = 0

    def add(self, start: int, column: Any) -> None:
        """Take a batch, a pyarrow array, for the rows from `start` on."""
        if self._are_whole:
            self._missing += column.null_count
            group_N = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)
        else:
            group_N = self._index.codes(*dictionary_encoded(column))
            self._missing += int((group_N == MISSING).sum())
        self._group_N[start : start + len(group_N)] = group_N

    def finish(self) -> NDArray[np.int64]:
        """The groups; raise UserError if some are missing."""
        _require_none_missing(self._where, self._name, self._missing, len(self._group_N), "a group")
        return self._group_N

    @property
    def names(self) -> tuple[str, ...]:
        """What each group is called; none where the groups are whole numbers, which are kept as they are."""
        return tuple(map(str, self._index.index_of))


class Times:
    """Collects the time of each of `count` rows, in nanoseconds or in the column's own numbers."""

    def __init__(self, where: str, name: str, dtype: Any, count: int, key: str = "data.split.by time") -> None:
        self._where, self._name = where, name
        self._target = self._time_type(dtype, key)
        self._is_whole = not types.is_floating(self._target)
        self._time_N: NDArray[np.int64] | NDArray[np.float64]
        self._time_N = np.empty(count, np.int64) if self._is_whole else np.empty(count, np.float64)
        self._missing = self._infinite = 0

    def _time_type(self, dtype: Any, key: str) -> Any:
        """The type with the 8 bytes that are kept."""
        if types.is_timestamp(dtype) or types.is_date(dtype):
            return pa.timestamp("ns", dtype.tz if types.is_timestamp(dtype) else None)
        if is_time(dtype):
            return pa.time64("ns") if types.is_time(dtype) else pa.duration("ns")
        if types.is_integer(dtype):
            return pa.int64()
        if types.is_floating(dtype) or types.is_decimal(dtype):
            return pa.float64()
        raise column_error(self._where, self._name, f"got {dtype}, expected times or numbers for {key}")

    def add(self, start: int, column: Any) -> None:
        """Take a batch, a pyarrow array, for the rows from `start` on.

        Raise UserError if a time does not fit into 64 bits of nanoseconds.
        """
        try:
            exact = column.cast(self._target)
        except pa.ArrowInvalid as error:
            said = f"a value does not fit into {self._target} ({error})"
            raise column_error(self._where, self._name, f"{said}; expected times between 1677 and 2262") from error
        time_N = (exact.cast(pa.int64()) if self._is_whole else exact).fill_null(0).to_numpy(zero_copy_only=False)
        self._missing += column.null_count + int(np.isnan(time_N).sum())
        self._infinite += int(np.isinf(time_N).sum())
        self._time_N[start : start + len(time_N)] = time_N

    def finish(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """The times, int64 if they are whole, else float64; raise UserError if some are missing or infinite."""
        count = len(self._time_N)
        _require_none_missing(self._where, self._name, self._missing, count, "a time")
        if self._infinite:
            said = of_values(self._infinite, count, "infinite")
            raise column_error(self._where, self._name, f"{said}; expected finite times")
        return self._time_N


class FactorColumn:
    """Collects the value of a known factor of variation of each of `count` rows."""

    def __init__(self, where: str, name: str, count: int) -> None:
        self._code_N = np.full(count, MISSING, np.int32)
        self._index = CategoryIndex(plain_value)
        self._where, self._name = where, name

    def add(self, start: int, column: Any) -> None:
        """Take a batch, a pyarrow array, for the rows from `start` on."""
        self._code_N[start : start + len(column)] = self._index.codes(*dictionary_encoded(column))

    def finish(self) -> Factor:
        """The factor; raise UserError if a value is missing or infinite, or if there are too many of text."""
        count, sorted_values = len(self._code_N), self._index.sorted_values()
        _require_none_missing(self._where, self._name, int((self._code_N == MISSING).sum()), count, "a factor's value")
        code_N = self._index.ranks()[self._code_N]
        if any(isinstance(value, bool | str) for value in sorted_values):
            if len(sorted_values) > LABEL_LIMIT:
                said = f"more than {LABEL_LIMIT:,} distinct texts in {count:,} rows (is it an identifier?)"
                raise column_error(self._where, self._name, f"{said}; expected a factor of variation")
            return Factor(name=self._name, code_N=code_N, values=tuple(map(str, sorted_values)))
        numbers = tuple(map(float, sorted_values))
        if not all(map(math.isfinite, numbers)):
            raise column_error(self._where, self._name, "infinite values; expected finite ones of a factor")
        return Factor(name=self._name, code_N=code_N, values=numbers)


def factor_of_array(where: str, name: str, values: Any) -> Factor:
    """The factor whose values came as one array or list; raise UserError if they cannot be that of a factor."""
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise column_error(where, name, f"values of mixed or unknown type ({error})") from error
    require_label_type(where, name, column.type, "a factor's values")
    factor = FactorColumn(where, name, len(column))
    factor.add(0, column)
    return factor.finish()


def factors_of_names(given: str, files: Sequence[str], names: Sequence[str]) -> tuple[Factor, ...]:
    """The factors that the names of files and of their folders tell, such as shape=heart,scale=2/0001.png.

    Raise UserError if a name lacks one.

    Args:
        given: The folder, as the user gave it.
        files: The paths of the files within it.
        names: Of the factors.
    """
    text_FN: dict[str, list[str]] = {name: [] for name in names}
    for file in files if names else ():
        parts = [part.partition("=") for name in PurePath(file).with_suffix("").parts for part in name.split(",")]
        found = {name.strip(): value.strip() for name, is_pair, value in parts if is_pair}
        for name, text_N in text_FN.items():
            if name not in found:
                raise no_such(f"{given}: the name {file!r}", "part NAME=VALUE (of data.factors) for", name, [*found])
            text_N.append(found[name])
    return tuple(factor_of_array(given, name, _numbers_or_text(text_N)) for name, text_N in text_FN.items())


def _numbers_or_text(text_N: Sequence[str]) -> Sequence[float] | Sequence[str]:
    try:
        return [float(text) for text in text_N]
    except ValueError:
        return text_N


class Order:
    """Collects the time and the series of each row."""

    def __init__(self, rows: Rows, time: str, series: str | None) -> None:
        """Begin; raise UserError if a column cannot hold times.

        Args:
            rows: With types and a count.
            time, series: The columns; series is None if the table is one.
        """
        count = rows.count or 0
        dtype = rows.schema.field(time).type
        self._time, self._is_moment = Times(rows.where, time, dtype, count, "data.sequence.time"), is_time(dtype)
        self._names, self._series = (time, series), None
        if series is not None:
            self._series = Groups(rows.where, series, rows.schema.field(series).type, count)

    def add(self, first: int, batch: Any) -> None:
        """Take a batch, for the rows from `first` on."""
        time, series = self._names
        self._time.add(first, batch.column(time))
        if self._series is not None:
            self._series.add(first, batch.column(series))

    def finish(self) -> dict[str, Any]:
        """The fields of a Table; raise UserError if a time or a series is missing."""
        found = {"time_N": self._time.finish(), "is_moment": self._is_moment}
        if self._series is None:
            return found
        return {**found, "series_N": self._series.finish(), "series": self._series.names}


def _require_none_missing(where: str, column: str, missing: int, count: int, what: str) -> None:
    if missing:
        said = of_values(missing, count, "missing")
        raise column_error(where, column, f"{said}; expected {what} in every row")
