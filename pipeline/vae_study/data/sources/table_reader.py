"""The one reader of tables: batches of Rows become small tables, which training collects and scoring takes one by one.

For training, `build_table` chooses the columns by the config and infers types from all rows. For scoring, the model
says which columns it needs and of which types they are.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from vae_study.config.data import DataConfig
from vae_study.data.sources.category_index import (
    CategoryIndex,
    FactorColumn,
    Groups,
    Labels,
    Order,
    Times,
    dictionary_encoded,
    plain_text,
    require_label_type,
)
from vae_study.data.sources.files import column_error, no_such, require_finite, require_memory, rows_error
from vae_study.data.sources.numbers import AnyFloats, Flags, NumberReader, OnUnbounded, fits_float32, widened
from vae_study.data.sources.source import Rows, is_category, is_number, is_text, is_time
from vae_study.data.sources.spelling import respelled
from vae_study.data.sources.type_inference import MixedColumn, infer_types
from vae_study.data.table import CategoryKind, Label, Table
from vae_study.errors import TooManyValues, UserError

CATEGORY_LIMIT = 10_000
TABLE = "the table"
_LEFT_OUT = ", or data.exclude with it"


@dataclass(frozen=True, kw_only=True)
class FeatureColumns:
    """The columns to read from a table.

    Attributes:
        numbers: Features that are numbers.
        categories: Features that are categories; for each, the function that gives a value's category, or None.
        others: Columns to hand on as they are.
        image_shape: If the numbers are pixels.
        origins: Of the numbers, if a model was trained on them; None to find them.
    """

    numbers: tuple[str, ...]
    categories: Mapping[str, Callable[[Any], str | None]]
    others: tuple[str, ...] = ()
    image_shape: tuple[int, ...] | None = None
    origins: Mapping[str, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.numbers, *self.categories, *self.others)))


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some consecutive rows of a table.

    Attributes:
        first: The index of the first one in the source, from 0.
        table: Their features.
        batch: The pyarrow batch that they came in.
    """

    first: int
    table: Table
    batch: Any


def read_parts(rows: Rows, columns: FeatureColumns, on_unbounded: OnUnbounded | None = None) -> Iterator[Part]:
    """Read a table that has all the columns, batch by batch.

    Raise UserError if a value cannot be read as what its column is, or if the source is damaged.

    Args:
        rows: The table.
        columns: What to read.
        on_unbounded: Called if numbers are infinite or too large for float32; by default that is a UserError.
    """

    def refuse(name: str, first: int, is_infinite_N: Flags, is_too_large_N: Flags) -> None:
        if is_infinite_N.any():
            raise rows_error(rows.where, name, first, is_infinite_N, "infinite", "expected finite numbers")
        expected = "expected at most 3.4e38 in size"
        raise rows_error(rows.where, name, first, is_too_large_N, "too large for float32", expected)

    known = columns.origins
    numbers = {
        name: NumberReader(
            rows.where, name, on_unbounded or refuse, None if known is None else known[name], rows.numbers_as
        )
        for name in columns.numbers
    }
    first = 0
    for batch in rows.batches(columns.names):
        # Column by column, as Arrow gives them and as preprocessing takes them.
        columns_DN = [reader.read(first, batch.column(name)) for name, reader in numbers.items()]
        x_ND = np.empty((batch.num_rows, len(numbers)), np.result_type(np.float32, *columns_DN), order="F")
        for index, column_N in enumerate(columns_DN):
            x_ND[:, index] = column_N
        origins = tuple(reader.origin for reader in numbers.values())
        code_NC = np.empty((batch.num_rows, len(columns.categories)), np.int32, order="F")
        categories = []
        for index, (name, normalize) in enumerate(columns.categories.items()):
            found = CategoryIndex(normalize)
            code_N = found.codes(*dictionary_encoded(batch.column(name)))
            code_NC[:, index] = found.ranks()[code_N]
            categories.append(found.sorted_values())
        table = Table(
            x_ND=x_ND,
            feature_names=columns.numbers,
            origins=origins if any(origins) else (),
            code_NC=code_NC if categories else np.zeros((0, 0), np.int32),
            category_names=tuple(columns.categories),
            categories=tuple(categories),
            image_shape=columns.image_shape,
            where=rows.where,
        )
        yield Part(first=first, table=table, batch=batch)
        first += batch.num_rows


def build_table(rows: Rows, config: DataConfig) -> Table:
    """Read all rows for training: the columns that the config chooses, with the types that all their values read as.

    Raise UserError if a column, a type or a value is wrong.
    """
    where, forced = rows.where, config.categories.columns
    features, notes = _choose_features(rows, config)
    given = {field.name: field.type for field in rows.schema}
    rows = _with_types(respelled(rows, features, config), features, config)
    dtypes = {name: rows.schema.field(name).type for name in rows.schema.names}
    _require_target_types(where, dtypes, config)
    for name in features:
        require_feature_type(where, name, dtypes[name])
    coded = [name for name in features if is_category(dtypes[name]) or name in forced]
    columns = FeatureColumns(
        numbers=tuple(name for name in features if name not in coded),
        categories=dict.fromkeys(coded, plain_text),
        others=_other_columns(config),
    )
    collected = _TableCollector(rows, columns, config)
    expected, count = rows.count or 0, 0
    for part in read_parts(rows, columns, collected.count_unbounded):
        count += part.batch.num_rows
        if count <= expected:
            collected.add(part)
    if count != expected:
        raise UserError(f"{where}: holds {count:,} rows, expected {expected:,}; is it still being written?")
    # What was read into is as large as several batches, and would stay reserved for the next file.
    pa.default_memory_pool().release_unused()
    table = collected.table((*rows.notes, *notes))
    return replace(table, read_as=_read_as(given, dtypes, rows.is_typed), reading=rows.numbers_as)


def _other_columns(config: DataConfig) -> tuple[str, ...]:
    """The columns that are read and are no features."""
    sequence = config.sequence
    ordering = () if sequence is None else (sequence.time, sequence.series)
    names = (config.label, config.split.column, *ordering, *config.factors)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def time_columns(rows: Rows, config: DataConfig) -> list[str]:
    """The columns that hold or read as times, which are no features."""
    # Which of several columns of one name is meant, nobody knows.
    names = [name for name, count in Counter(rows.schema.names).items() if count == 1]
    typed = _with_types(respelled(rows, names, config), names, config).schema
    return [name for name in names if is_time(typed.field(name).type)]


def _read_as(given: Mapping[str, Any], found: Mapping[str, Any], is_typed: bool) -> tuple[tuple[str, str], ...]:
    """The type of each column; of text without a declared type, what it reads as."""
    shown = {name: "text" if is_text(dtype) else str(dtype) for name, dtype in {**given, **found}.items()}
    return tuple((name, shown[name] if is_typed or name in found else "not read") for name in given)


class _TableCollector:
    """Collects the parts of a table in arrays for all rows."""

    def __init__(self, rows: Rows, columns: FeatureColumns, config: DataConfig) -> None:
        self._where, self._columns, self._config = rows.where, columns, config
        count = rows.count or 0
        require_memory(rows.where, 4 * count * (len(columns.numbers) + len(columns.categories)))
        self._x_ND: AnyFloats = np.empty((count, len(columns.numbers)), np.float32)
        self._origins: tuple[int, ...] = ()
        self._kinds = tuple(_category_kind(rows, name) for name in columns.categories)
        self._code_NC = np.empty((count, len(columns.categories)), np.int32)
        self._indices = {name: CategoryIndex(str, CATEGORY_LIMIT) for name in columns.categories}
        # Numbers in a text column are suspicious unless the config names it as a category.
        self._mixed = {
            name: MixedColumn(rows.where, name, count, rows.numbers_as)
            for name in columns.categories
            if is_text(rows.schema.field(name).type) and name not in config.categories.columns
        }
        self._infinite = dict.fromkeys(columns.numbers, 0)
        self._too_large = dict.fromkeys(columns.numbers, 0)
        self._labels = None if config.label is None else Labels(rows.where, config.label, count)
        self._factors = {name: FactorColumn(rows.where, name, count) for name in config.factors}
        name = config.split.column
        collector = Times if config.split.by == "time" else Groups
        self._split = None if name is None else collector(rows.where, name, rows.schema.field(name).type, count)
        self._order = None if config.sequence is None else Order(rows, config.sequence.time, config.sequence.series)

    def count_unbounded(self, name: str, first: int, is_infinite_N: Flags, is_too_large_N: Flags) -> None:
        """Take the numbers that are infinite, in float32 at least."""
        self._infinite[name] += int(is_infinite_N.sum())
        self._too_large[name] += int(is_too_large_N.sum())

    def add(self, part: Part) -> None:
        """Take some rows."""
        rows = slice(part.first, part.first + part.batch.num_rows)
        if self._x_ND.dtype == np.float32 and not fits_float32(part.table.x_ND):
            self._x_ND = widened(self._x_ND, part.first)
        self._x_ND[rows] = part.table.x_ND
        # A column has its origin from its first value on.
        self._origins = part.table.origins or self._origins
        for column, (name, index) in enumerate(self._indices.items()):
            values, local_N = part.table.categories[column], part.table.code_NC[:, column]
            self._code_NC[rows, column] = index.codes(values, local_N)
            if name in self._mixed:
                self._mixed[name].add(part.first, values, local_N)
        if self._labels is not None:
            self._labels.add(part.first, part.batch.column(self._config.label))
        for name, factor in self._factors.items():
            factor.add(part.first, part.batch.column(name))
        if self._split is not None:
            self._split.add(part.first, part.batch.column(self._config.split.column))
        if self._order is not None:
            self._order.add(part.first, part.batch)

    def table(self, notes: tuple[str, ...]) -> Table:
        """The table of all rows; raise UserError if values are wrong."""
        names = [f"column {name!r}" for name in self._columns.numbers]
        infinite_D, too_large_D = (np.array([*c.values()], np.int64) for c in (self._infinite, self._too_large))
        require_finite(self._where, names, len(self._x_ND), infinite_D, too_large_D)
        for column, (name, index) in enumerate(self._indices.items()):
            if name in self._mixed:
                self._mixed[name].require_text()
            if index.is_full:
                said = f"more than {CATEGORY_LIMIT:,} distinct values in {len(self._x_ND):,} rows"
                said = f"{said}; an identifier? data.exclude: [{name}] leaves it out"
                raise TooManyValues(str(column_error(self._where, name, said)), name)
            self._code_NC[:, column] = index.ranks()[self._code_NC[:, column]]
        label_N: NDArray[np.int32] | None = None
        labels: tuple[Label, ...] = ()
        if self._labels is not None:
            label_N, labels = self._labels.finish()
        return Table(
            x_ND=self._x_ND,
            feature_names=self._columns.numbers,
            origins=self._origins,
            code_NC=self._code_NC if self._indices else np.zeros((0, 0), np.int32),
            category_names=tuple(self._indices),
            categories=tuple(index.sorted_values() for index in self._indices.values()),
            category_kinds=self._kinds if any(kind != "text" for kind in self._kinds) else (),
            label_N=label_N,
            labels=labels,
            factors=tuple(factor.finish() for factor in self._factors.values()),
            split_N=None if self._split is None else self._split.finish(),
            has_binary_labels=self._config.has_binary_labels,
            where=self._where,
            notes=notes,
            **({} if self._order is None else self._order.finish()),
        )


def _choose_features(rows: Rows, config: DataConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The features in the config's order, or the file's, and notes on columns left out.

    Raise UserError if a name occurs twice or not at all, if a feature is the label too, or if there is no feature.
    """
    where, names = rows.where, rows.schema.names
    label, split = config.label, config.split.column
    require_once(where, "data.columns", config.columns or ())
    ordering = (None, None) if config.sequence is None else (config.sequence.time, config.sequence.series)
    given = (
        ("label", (label,)), ("split.column", (split,)), ("columns", config.columns or ()),
        ("sequence.time", ordering[:1]), ("sequence.series", ordering[1:]), ("factors", config.factors),
    )  # fmt: skip
    for key, asked in (*given, ("exclude", config.exclude)):
        _require_known(where, f"column (of data.{key})", asked, names)
    require_once(where, "data.factors", config.factors)
    for key, asked in (("label", (label,)), ("columns", config.columns or ()), ("factors", config.factors)):
        for name in asked:
            if name in config.exclude:
                raise column_error(where, str(name), f"is in data.exclude and data.{key} too; expected one of these")
    index: tuple[str, ...] = ()
    if config.columns is not None:
        for key, asked in (("is data.label", (label,)), ("is in data.factors", config.factors)):
            for name in asked:
                if name in config.columns:
                    raise column_error(where, str(name), f"is in data.columns and {key} too; expected one of these")
        features = config.columns
    else:
        others = (label, split, *ordering, *config.factors, *config.exclude)
        index = tuple(name for name in rows.index if name not in others)
        features = tuple(name for name in names if name not in (*others, *index))
    used = {*features, label, split, *ordering, *config.factors}
    require_once(where, TABLE, [name for name in names if name in used])
    if not features:
        raise UserError(f"{where}: no feature; got the columns {', '.join(map(repr, names))}")
    _require_known(where, "feature (of data.categories.columns)", config.categories.columns, features)
    return features, tuple(f"column {name!r} is an index and was left out of the features" for name in index)


def _with_types(rows: Rows, features: Sequence[str], config: DataConfig) -> Rows:
    """The chosen columns with inferred types; text that was declared stays text as label, group or category."""
    split = config.split.column
    names = tuple(dict.fromkeys((*features, *_other_columns(config))))
    times = {split} if config.split.by == "time" else set()
    times |= set() if config.sequence is None else {config.sequence.time}
    # Factors are measured: 1.10 is the number 1.1.
    measured = {*config.factors} - {config.label, split}
    open_features = {name for name in features if name not in config.categories.columns} | measured
    exact = {*names} - times - open_features
    if not rows.is_typed:
        forced = config.categories.columns
        return infer_types(rows, names, as_spelled=exact, as_text=forced, as_numbers=open_features)
    return infer_types(rows, names, as_declared=exact, as_numbers=open_features)


def _category_kind(rows: Rows, name: str) -> CategoryKind:
    dtype = rows.schema.field(name).type
    inner = dtype.value_type if types.is_dictionary(dtype) else dtype
    return "spelled" if name in rows.spelled else "text" if is_text(inner) else "numbers"


def _require_target_types(where: str, dtypes: Mapping[str, Any], config: DataConfig) -> None:
    if config.label is not None:
        require_label_type(where, config.label, dtypes[config.label])
    for name in config.factors:
        require_label_type(where, name, dtypes[name], "a factor's values")
    split = config.split.column
    if split is not None and types.is_nested(dtypes[split]):
        raise column_error(where, split, f"got {dtypes[split]}, expected plain values to split the rows by")


def _require_known(where: str, what: str, names: Sequence[str | None], valid: Sequence[str]) -> None:
    for name in names:
        if name is not None and name not in valid:
            raise no_such(where, what, name, valid)


def require_once(where: str, place: str, names: Sequence[str]) -> None:
    """Raise UserError if a column's name occurs twice in a place, such as "the table"."""
    for name, count in Counter(names).items():
        if count > 1:
            raise column_error(
                where,
                name,
                f"occurs {count} times in {place}; expected each name once{_LEFT_OUT if place == TABLE else ''}",
            )


def require_feature_type(where: str, name: str, dtype: Any) -> None:
    """Raise UserError if a pyarrow type cannot hold a feature: times, or nested values."""
    inner = dtype.value_type if types.is_dictionary(dtype) else dtype
    if is_time(inner):
        remedies = "leaves it out; data.split.column splits by it; data.categories.columns takes text as categories"
        said = f"got times ({inner}), which are no feature; data.exclude: [{name}] {remedies}; or turn it into numbers"
        raise column_error(where, name, said)
    if not is_number(inner) and not is_text(inner):
        raise column_error(where, name, f"got {dtype}, expected numbers or text; data.exclude leaves it out")
