"""From batches of pyarrow to small tables, with the types that a model wants, whatever a batch by itself suggests."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.sources.kinds import is_text
from pipeline.data.sources.problems import column_error
from pipeline.data.sources.rows import Rows
from pipeline.data.sources.settling import INTEGER, REAL, TEXT, TRUTH, converted
from pipeline.data.sources.vocabulary import Vocabulary, encoded, plain_text
from pipeline.data.streams.bad_rows import refuse, require_finite
from pipeline.data.streams.spelling import Spelling
from pipeline.data.streams.wanted import Wanted
from pipeline.data.table import Table
from pipeline.errors import UserError

_EXAMPLE_LENGTH = 40


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of a source, one after another.

    Attributes:
        first: The place of the first one in the source, from 0.
        table: Their features, before preprocessing.
        keys: Their keys, a pyarrow table.
    """

    first: int
    table: Table
    keys: Any


def parts_of(rows: Rows, columns: Wanted) -> Iterator[Part]:
    """The rows of a table that has all wanted columns, batch by batch.

    Raises:
        UserError: A value is not what the model takes it for, or the source is torn.
    """
    filling = _Filling(rows, columns)
    first = 0
    for batch in rows.batches(columns.names):
        yield Part(first=first, table=filling.table(first, batch), keys=_keys(rows, columns, batch))
        first += batch.num_rows


def _keys(rows: Rows, columns: Wanted, batch: Any) -> Any:
    """In the types of the whole table: its files may differ in a column's width, or in a dictionary."""
    fields = [rows.schema.field(name) for name in columns.keys]
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in fields]
    return pa.table({name: batch.column(name).cast(kind) for name, kind in zip(columns.keys, kinds, strict=True)})


class _Filling:
    """Makes a table of each batch."""

    def __init__(self, rows: Rows, columns: Wanted) -> None:
        self._where, self._columns = rows.where, columns
        self._untyped = frozenset(rows.folder_keys if rows.is_typed else columns.names)
        # What the text of a column of numbers may read as: once it was not whole, it will not be whole again.
        self._kinds: dict[str, tuple[Any, ...]] = dict.fromkeys(columns.numbers, (INTEGER, REAL, TRUTH))

    def table(self, first: int, batch: Any) -> Table:
        count, names = batch.num_rows, tuple(self._columns.categories)
        # Column by column, as Arrow gives them and as preprocessing takes them.
        x_ND = np.empty((count, len(self._columns.numbers)), np.float32, order="F")
        for place, name in enumerate(self._columns.numbers):
            x_ND[:, place] = self._numbers(first, name, batch.column(name))
        code_NC = np.empty((count, len(names)), np.int32, order="F")
        categories = []
        for place, (name, spelling) in enumerate(self._columns.categories.items()):
            code_NC[:, place], found = self._codes(batch.column(name), spelling if name in self._untyped else None)
            categories.append(found)
        return Table(
            x_ND=x_ND,
            feature_names=self._columns.numbers,
            code_NC=code_NC if names else np.zeros((0, 0), np.int32),
            category_names=names,
            categories=tuple(categories),
            image_shape=self._columns.image_shape,
            where=self._where,
        )

    def _numbers(self, first: int, name: str, column: Any) -> NDArray[np.float32]:
        numbers = self._read(first, name, column) if is_text(column.type) else column
        value_N: NDArray[np.float32] = numbers.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
        if np.isinf(value_N).any():
            require_finite(self._where, name, first, value_N, pc.is_inf(numbers.cast(pa.float64(), safe=False)))
        return value_N

    def _read(self, first: int, name: str, column: Any) -> Any:
        for kind in self._kinds[name]:
            numbers = converted(column, kind)
            if numbers is not None:
                self._kinds[name] = (REAL, TRUTH) if kind == REAL else self._kinds[name]
                return numbers
        raise self._unreadable(first, name, column.cast(TEXT))

    def _unreadable(self, first: int, name: str, column: Any) -> UserError:
        values, local_N = encoded(column)
        is_bad_V = np.array([converted(pa.array([value], TEXT), REAL) is None for value in values] + [False])
        example = next((value for value, is_bad in zip(values, is_bad_V, strict=False) if is_bad), "")
        if not is_bad_V.any():
            return column_error(self._where, name, "holds numbers and truth values; expected numbers")
        return refuse(
            self._where, name, first, is_bad_V[local_N], f"came {example[:_EXAMPLE_LENGTH]!r}", "expected numbers"
        )

    def _codes(self, column: Any, spelling: Spelling | None) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        vocabulary = Vocabulary(plain_text if spelling is None else spelling.known)
        code_N = vocabulary.codes(*encoded(column))
        return vocabulary.ranks()[code_N], tuple(vocabulary.sorted_values())
