"""Numbers of any type as floats that keep their information: float32 where it is exact, else float64.

Whole numbers beyond 2**53, which float64 would round, are stored less an exact whole number, their column's origin.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from vae_study.data.sources.category_index import dictionary_encoded
from vae_study.data.sources.files import column_error, require_finite, rows_error
from vae_study.data.sources.source import is_text
from vae_study.data.sources.spelling import plain_numbers
from vae_study.data.sources.type_inference import EXAMPLE_LENGTH, INTEGER, REAL, TEXT, TRUTH, converted
from vae_study.data.table import chunk_slices

# Above it, float64 does not have every whole number.
LARGEST_WHOLE = 2**53
AnyFloats = NDArray[np.float32] | NDArray[np.float64]
Flags = NDArray[np.bool_]
# Called with a column, the index of the first of N rows, which values are infinite, and which are too large.
OnUnbounded = Callable[[str, int, Flags, Flags], None]


class NumberReader:
    """Reads the batches of one column of numbers, which may have come as text.

    Attributes:
        origin: The whole number that the values are given less of.
    """

    def __init__(
        self,
        where: str,
        name: str,
        on_unbounded: OnUnbounded,
        origin: int | None = None,
        numbers_as: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Begin a column.

        Args:
            where: What messages call the table.
            name: The column's.
            on_unbounded: Called if values are infinite, or too large for float32.
            origin: Of a model that was trained on the column. None: 0, unless the first value is beyond 2**53.
            numbers_as: How numbers in text are written, as Rows has it.
        """
        self.origin = origin or 0
        self._where, self._name, self._on_unbounded = where, name, on_unbounded
        self._numbers_as = numbers_as
        self._has_begun = origin is not None
        # The types to try on text. After one batch with decimals, INTEGER is not tried again.
        self._dtypes: tuple[Any, ...] = (INTEGER, REAL, TRUTH)

    def read(self, first: int, column: Any) -> AnyFloats:
        """Float32 or float64 numbers, NaN for a missing one; raise UserError if a text does not read as a number."""
        numbers = self._parsed(first, column) if is_text(column.type) else column
        if not self._has_begun and numbers.null_count < len(numbers):
            value = (numbers if not numbers.null_count else numbers.drop_null())[0].as_py()
            self.origin, self._has_begun = origin_of(value), True
        if self.origin and not types.is_floating(numbers.type):
            return _less_origin(numbers, self.origin)
        target = pa.float32() if _is_narrow(numbers.type) else pa.float64()
        value_N: AnyFloats = numbers.cast(target, safe=False).to_numpy(zero_copy_only=False)
        is_unbounded_N = is_unbounded(value_N)
        if is_unbounded_N.any():
            is_infinite_N = np.isinf(value_N)
            self._on_unbounded(self._name, first, is_infinite_N, is_unbounded_N & ~is_infinite_N)
        return value_N - float(self.origin) if self.origin else value_N

    def _parsed(self, first: int, column: Any) -> Any:
        column = plain_numbers(column, self._numbers_as)
        for dtype in self._dtypes:
            numbers = converted(column, dtype)
            if numbers is not None:
                self._dtypes = (REAL, TRUTH) if dtype == REAL else self._dtypes
                return numbers
        values, local_N = dictionary_encoded(column.cast(TEXT))
        # The last entry is for missing values.
        is_bad_V = np.array([converted(pa.array([value], TEXT), REAL) is None for value in values] + [False])
        if not is_bad_V.any():
            raise column_error(self._where, self._name, "holds numbers and truth values; expected numbers")
        example = values[int(np.argmax(is_bad_V))][:EXAMPLE_LENGTH]
        raise rows_error(self._where, self._name, first, is_bad_V[local_N], f"got {example!r}", "expected numbers")


def is_unbounded(values: AnyFloats) -> Flags:
    """Which values are infinite, or rounded to infinity in float32."""
    with np.errstate(over="ignore"):
        return np.isinf(values.astype(np.float32, copy=False))


def _is_narrow(dtype: Any) -> bool:
    """Whether float32 holds every value of a pyarrow type."""
    is_small = (types.is_integer(dtype) or types.is_floating(dtype)) and dtype.bit_width <= 16
    return bool(is_small or types.is_float32(dtype) or types.is_boolean(dtype) or types.is_null(dtype))


def origin_of(value: Any) -> int:
    """What to subtract from the values of a column whose first value is given."""
    is_whole = isinstance(value, int | Decimal | np.integer)
    return int(value) if is_whole and abs(value) > LARGEST_WHOLE else 0


def _less_origin(numbers: Any, origin: int) -> NDArray[np.float64]:
    """A pyarrow array of whole or decimal numbers, less the origin, computed exactly; NaN for a missing one."""
    if types.is_decimal(numbers.type):
        values = numbers.to_pylist()
        return np.array([np.nan if value is None else float(value - origin) for value in values], np.float64)
    less_N = whole_less(numbers.fill_null(0).to_numpy(zero_copy_only=False), origin)
    less_N[numbers.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return less_N


def whole_less(whole_N: NDArray[Any], origin: int) -> NDArray[np.float64]:
    """Whole numbers less the origin: exact up to 2**53, computed in the 64 bits of whole numbers."""
    wide_N = whole_N if whole_N.dtype == np.uint64 else whole_N.astype(np.int64)
    # Unsigned numbers wrap around, so the difference is right whatever the signs.
    above_N = wide_N.astype(np.uint64) - np.uint64(origin % 2**64)
    below_N = np.uint64(0) - above_N
    return np.where(wide_N >= origin, above_N.astype(np.float64), -below_N.astype(np.float64))


def fits_float32(x_ND: NDArray[Any]) -> bool:
    """Whether every number is exact in float32."""
    if x_ND.dtype == np.float32:
        return True
    for rows in chunk_slices(len(x_ND), x_ND.shape[1]):
        part = x_ND[rows]
        with np.errstate(over="ignore"):
            is_exact = part.astype(np.float32) == part
        if not (is_exact | np.isnan(part)).all():
            return False
    return True


def widened(x_ND: AnyFloats, filled: int) -> NDArray[np.float64]:
    """The first `filled` rows in float64, with room for all others, in the same memory.

    Args:
        x_ND: Float32. It must own its memory and is no longer valid.
        filled: How many of its rows hold values.
    """
    shape = x_ND.shape
    # The first half of the memory keeps what it holds.
    x_ND.resize((2 * shape[0], shape[1]), refcheck=False)
    narrow_ND: NDArray[np.float32] = np.ndarray(shape, np.float32, buffer=x_ND.data)
    wide_ND: NDArray[np.float64] = np.ndarray(shape, np.float64, buffer=x_ND.data)
    # From the last row to the first: a row is read before anything is written to its place.
    for rows in reversed([*chunk_slices(filled)]):
        rows = slice(rows.start, min(rows.stop, filled))
        wide_ND[rows] = narrow_ND[rows].copy()
    return wide_ND


def floats_of_array(
    x_ND: NDArray[Any], where: str, names: Sequence[str], known: Sequence[int] | None = None
) -> tuple[AnyFloats, tuple[int, ...]]:
    """The numbers of an array in float32 if that is exact, else in float64, and the origin of each column.

    Masked values are NaN. Raise UserError if a number is infinite, or too large for float32.

    Args:
        x_ND: Numbers of any type.
        where: What messages call their source.
        names: What messages call each feature.
        known: The origins of a model that was trained on the columns. None: as their first values have it.
    """
    mask_ND = np.ma.getmask(x_ND)
    x_ND = np.ma.getdata(x_ND)
    origins: tuple[int, ...] = ()
    floats_ND: AnyFloats
    if x_ND.dtype.kind in "iu" and x_ND.dtype.itemsize == 8 and len(x_ND):
        is_there_ND = np.ones(x_ND.shape, bool) if mask_ND is np.ma.nomask else ~mask_ND
        first_D = x_ND[is_there_ND.argmax(axis=0), np.arange(x_ND.shape[1])].tolist()
        found = tuple(map(origin_of, first_D)) if known is None else tuple(known)
        origins = found if any(found) else ()
    if origins:
        floats_ND = np.stack([whole_less(x_ND[:, index], origin) for index, origin in enumerate(origins)], axis=1)
    elif np.can_cast(x_ND.dtype, np.float32, "safe"):
        floats_ND = np.ascontiguousarray(x_ND, np.float32)
    else:
        floats_ND = np.ascontiguousarray(x_ND, np.float64)
    if mask_ND is not np.ma.nomask:
        # A copy: the array may be the user's own.
        floats_ND = np.where(mask_ND, np.array(np.nan, floats_ND.dtype), floats_ND)
    chunks = chunk_slices(len(floats_ND), floats_ND.shape[1])
    unbounded_D = np.sum([is_unbounded(floats_ND[rows]).sum(axis=0) for rows in chunks], axis=0)
    if unbounded_D.any():
        infinite_D = np.isinf(floats_ND).sum(axis=0)
        require_finite(where, names, len(x_ND), infinite_D, unbounded_D - infinite_D)
    if fits_float32(floats_ND):
        floats_ND = floats_ND.astype(np.float32, copy=False)
    return floats_ND, origins
