"""Rows of any source as a model's features, a bounded number at a time: what scoring reads."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import types

from vae_study.config.data import DataConfig
from vae_study.data.differences import Differences
from vae_study.data.model_columns import model_columns, on_types
from vae_study.data.pixels import part_of
from vae_study.data.preprocessing import Preprocessing
from vae_study.data.resampling import resample
from vae_study.data.scales import Floats
from vae_study.data.sources import PYTHON, find_source
from vae_study.data.sources.category_index import Order
from vae_study.data.sources.files import rows_error
from vae_study.data.sources.python import frame_rows
from vae_study.data.sources.source import TABLE_SETTINGS, ModelInput, Rows, batch_rows, is_text
from vae_study.data.sources.spelling import respelled
from vae_study.data.sources.table_reader import (
    FeatureColumns,
    Part,
    read_parts,
)
from vae_study.data.table import Table
from vae_study.data.window_stream import WindowReader, joined
from vae_study.data.windows import Windows
from vae_study.errors import UserError

# A message names no more columns than these.
COLUMNS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some consecutive rows of a source.

    Attributes:
        first: The index of the first one in the source, from 0.
        x_ND: Their features, float32; of a model of windows, `Windows`.
        keys: Their key columns as they came, a pyarrow table; without columns if there are no keys.
    """

    first: int
    x_ND: Any
    keys: Any

    def since(self, row: int) -> Self:
        """Those of the rows that have at least this index in the source."""
        skipped = min(max(row - self.first, 0), len(self.x_ND))
        part = slice(skipped, None)
        return replace(self, first=self.first + skipped, x_ND=part_of(self.x_ND, part), keys=self.keys.slice(skipped))


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The rows of a source in their order, in batches; it can be iterated over many times.

    Attributes:
        where: What messages call the source.
        count: The number of rows; None if unknown before reading.
        preprocessing: What makes features of them.
        batches: Gives the rows from the beginning, and tells in what they differ from those of training.
        untyped_keys: The keys that are text because all columns of the source are.
        differences: In what the rows of the last iteration differ from those of training.
    """

    where: str
    count: int | None
    preprocessing: Preprocessing
    batches: Callable[[Differences], Iterator[Batch]]
    differences: Differences
    untyped_keys: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Batch]:
        """Read the source from its beginning.

        Raise UserError if a value is not as the model takes it, or if the source is damaged or has no rows.
        """
        read = 0
        self.differences.clear()
        for batch in self.batches(self.differences):
            yield batch
            read = batch.first + len(batch.x_ND)
        if not read:
            raise UserError(f"{self.where}: holds no rows; expected at least one")
        if self.count is not None and read != self.count:
            raise UserError(f"{self.where}: holds {read:,} rows, expected {self.count:,}; is it still being written?")


def open_stream(
    location: str, preprocessing: Preprocessing, source: str | None = None, keys: Sequence[str] = ()
) -> Stream:
    """Open a source for scoring.

    Tables are read batch by batch, only the columns that are features or keys, and images some at a time. Arrays, what
    a function returns, and the rows of a model of windows are in memory as a whole.

    A model of windows gets one window for each row, the one that ends with it; the first rows of a series get its first
    window. One of whole series gets the series of each row. Times and series are the first keys.

    Raise UserError if there is nothing at the location, if its kind is unknown, or if columns that the model was
    trained on are missing.

    Args:
        location: A path, a URI such as s3://bucket/key, the name of a bundled data set, or
            `python:package.module:function`.
        preprocessing: The model's.
        source: The source's name; by default it follows from the location.
        keys: Columns of a table to hand on as they are; those of a CSV file are text. Of images, the key is `file`.
    """
    found = find_source(location, source)
    name = location if found.name == PYTHON else found.name
    config = reading_config(preprocessing, found.settings, name, location if found.paths else None)
    model = _model_input(preprocessing, keys)
    opened = found.open(config, model)
    sequence = preprocessing.sequence
    if sequence is not None and not isinstance(opened, Rows):
        raise UserError(f"{opened.where}: has no columns; expected a table with the column {sequence.time!r} of times")
    if isinstance(opened, Rows):
        rows = respelled(opened, preprocessing.column_names, config)
        keys = keys if sequence is None else tuple(dict.fromkeys((*sequence.columns, *keys)))
        rows, columns = model_columns(rows, preprocessing, keys)

        def parts(differences: Differences) -> Iterator[Batch]:
            if sequence is not None:
                yield from _window_batches(rows, columns, preprocessing, keys, differences)
                return
            for part in read_parts(rows, columns):
                x_ND = _features(preprocessing, part.table, part.first)
                differences.add(part.table)
                yield Batch(first=part.first, x_ND=x_ND, keys=_keys(rows, keys, part.batch))

        untyped = () if rows.is_typed else tuple(key for key in keys if is_text(rows.schema.field(key).type))
        return Stream(
            where=rows.where,
            count=rows.count,
            preprocessing=preprocessing,
            batches=parts,
            differences=Differences(preprocessing, (*rows.notes, *on_types(rows, preprocessing))),
            untyped_keys=untyped,
        )
    if keys:
        raise UserError(f"{opened.where}: has no columns, so none that could be a key; got the key {keys[0]!r}")
    examples, count = opened, opened.shape[0]
    size = batch_rows(int(np.prod(opened.shape[1:])))

    def slices(differences: Differences) -> Iterator[Batch]:
        for first in range(0, count, size):
            table = examples.table(slice(first, first + size))
            x_ND = _features(preprocessing, table, first)
            differences.add(table)
            yield Batch(first=first, x_ND=x_ND, keys=pa.table({"file": table.files} if table.files else {}))

    return Stream(
        where=opened.where,
        count=count,
        preprocessing=preprocessing,
        batches=slices,
        differences=Differences(preprocessing),
    )


def frame_features(frame: pd.DataFrame, preprocessing: Preprocessing) -> Any:
    """The features x_ND of a data frame in the user's columns, read as all tables are.

    Of a model of time series, `Windows`: the window or the whole series of each row.

    Raise UserError if a column is missing, or if a column or a value is not what the model takes it for.

    Args:
        frame: N rows; columns in any order, also others than those that the model was trained on.
        preprocessing: The model's.
    """
    return rows_features(frame_rows(frame, "the data frame", preprocessing.read_names), preprocessing)


def rows_features(rows: Rows, preprocessing: Preprocessing) -> Any:
    """The features x_ND of a table whose count of rows is known; takes and raises what `frame_features` does."""
    config = reading_config(preprocessing, TABLE_SETTINGS, "parquet", None)
    rows = respelled(rows, preprocessing.column_names, config)
    sequence = preprocessing.sequence
    rows, columns = model_columns(rows, preprocessing, () if sequence is None else sequence.columns)
    if sequence is not None:
        return _windows(rows, columns, preprocessing)
    x_ND = np.empty((rows.count or 0, len(preprocessing.feature_names)), np.float32)
    for part in read_parts(rows, columns):
        x_ND[part.first : part.first + part.batch.num_rows] = _features(preprocessing, part.table, part.first)
    return x_ND


def _features(preprocessing: Preprocessing, table: Table, first: int) -> Floats:
    """The features of some rows; raise UserError, with the row, if a value is missing and that is refused."""
    _require_values(preprocessing, table, first)
    return preprocessing.transform(table)


def _require_values(preprocessing: Preprocessing, table: Table, first: int) -> None:
    """Raise UserError, with the row, if a value is missing and that is refused."""
    if preprocessing.missing == "refuse":
        if table.is_bytes:
            return
        used = {*preprocessing.column_names}
        columns = {name: np.isnan(table.x_ND[:, index]) for index, name in enumerate(table.feature_names)}
        columns |= {name: table.code_NC[:, index] < 0 for index, name in enumerate(table.category_names)}
        for name, is_missing_N in columns.items():
            if name in used and is_missing_N.any():
                expected = "expected none, as in the training data (data.missing: refuse)"
                raise rows_error(table.where, name, first, is_missing_N, "no value", expected)


def reading_config(preprocessing: Preprocessing, settings: Sequence[str], source: str, path: str | None) -> DataConfig:
    """A config that reads as training did, as far as the source has these settings."""
    saved = json.loads(preprocessing.reading)
    return DataConfig(source=source, path=path, **{key: value for key, value in saved.items() if key in settings})


def _model_input(preprocessing: Preprocessing, keys: Sequence[str] = ()) -> ModelInput:
    pixels = preprocessing.pixels
    names = tuple(dict.fromkeys((*preprocessing.read_names, *keys)))
    origins = {column.name: column.origin for column in preprocessing.numbers}
    return ModelInput(columns=names, image_shape=pixels.image_shape if pixels else None, origins=origins)


def _window_batches(
    rows: Rows, columns: FeatureColumns, preprocessing: Preprocessing, keys: Sequence[str], differences: Differences
) -> Iterator[Batch]:
    """A window for each row of a table, in the order of its rows; of whole series, all rows are in memory."""
    sequence, given = preprocessing.sequence, 0
    assert sequence is not None
    if not sequence.is_whole:
        try:
            for batch in _windows_in_turn(rows, columns, preprocessing, keys, differences):
                yield batch
                given = batch.first + len(batch.x_ND)
            return
        except UserError:
            # Of all rows at once, the message has counts of all.
            differences.clear()
    kept: list[Any] = []

    def take(part: Part) -> None:
        differences.add(part.table)
        kept.append(_keys(rows, keys, part.batch))

    windows = _windows(rows, columns, preprocessing, take, differences.say)
    every = Batch(first=0, x_ND=windows, keys=pa.concat_tables(kept))
    size = max(one.num_rows for one in kept)
    for first in range(given, len(windows), size):
        part = slice(first, first + size)
        yield replace(every, first=first, x_ND=windows.only(part), keys=every.keys.slice(first, size))


def _windows_in_turn(
    rows: Rows, columns: FeatureColumns, preprocessing: Preprocessing, keys: Sequence[str], differences: Differences
) -> Iterator[Batch]:
    """A window for each row of a table, read part by part."""
    reader, series, first = WindowReader(preprocessing), dict[str, int](), 0
    kept: list[Any] = []

    def batch(windows: Windows) -> Batch:
        nonlocal kept, first
        waiting = pa.concat_tables(kept)
        made = Batch(first=first, x_ND=windows, keys=waiting.slice(0, len(windows)))
        kept, first = [waiting.slice(len(windows))], first + len(windows)
        return made

    for part in read_parts(rows, columns):
        differences.add(part.table)
        kept.append(_keys(rows, keys, part.batch))
        if windows := reader.add(_in_time(rows, part, preprocessing, series)):
            yield batch(windows)
    if windows := reader.finish():
        yield batch(windows)
    if reader.counts.rows:
        assert preprocessing.sequence is not None
        differences.say([reader.counts.note(preprocessing.sequence)])


def _in_time(rows: Rows, part: Part, preprocessing: Preprocessing, series: dict[str, int]) -> Table:
    """The rows of a part, or where they stay rows their features, with times, series and row numbers.

    `series` are the numbers of those that came before, by name.
    """
    sequence, count = preprocessing.sequence, part.batch.num_rows
    assert sequence is not None
    order = Order(replace(rows, count=count), *sequence.order)
    order.add(0, part.batch)
    fields = order.finish()
    if names := fields.pop("series", ()):
        number_V = np.array([series.setdefault(name, len(series)) for name in names])
        fields["series_N"] = number_V[fields["series_N"]]
    fields["row_N"] = np.arange(part.first, part.first + count)
    if sequence.resample is not None:
        _require_values(preprocessing, part.table, part.first)
        return replace(part.table, **fields)
    x_ND = _features(preprocessing, part.table, part.first)
    return Table(x_ND=x_ND, feature_names=preprocessing.row_features, where=rows.where, **fields)


def _windows(
    rows: Rows,
    columns: FeatureColumns,
    preprocessing: Preprocessing,
    take: Callable[[Part], None] = lambda part: None,
    say: Callable[[Sequence[str]], None] = lambda notes: None,
) -> Windows:
    """A window for each row of a table: views of its rows, all of which are in memory.

    `take` is called with each part that is read, and `say` with notes on steps of one length.
    """
    sequence, count = preprocessing.sequence, rows.count or 0
    assert sequence is not None
    is_resampled, tables = sequence.resample is not None, list[Table]()
    features = 0 if is_resampled else len(preprocessing.row_features)
    x_RF, order, read = np.empty((count, features), np.float32), Order(rows, *sequence.order), 0
    for part in read_parts(rows, columns):
        read = part.first + part.batch.num_rows
        if read <= count:
            if is_resampled:
                _require_values(preprocessing, part.table, part.first)
                tables.append(part.table)
            else:
                x_RF[part.first : read] = _features(preprocessing, part.table, part.first)
            order.add(part.first, part.batch)
            take(part)
    if read != count:
        raise UserError(f"{rows.where}: holds {read:,} rows, expected {count:,}; is it still being written?")
    if not count:
        raise UserError(f"{rows.where}: holds no rows; expected at least one")
    fields: dict[str, Any] = {"feature_names": preprocessing.row_features, "where": rows.where}
    if not is_resampled:
        return sequence.windows_for(Table(x_ND=x_RF, **fields, **order.finish()))
    made = resample(replace(joined(tables), **order.finish()), sequence)
    say(made.table.notes)
    times = {name: getattr(made.table, name) for name in ("time_N", "series_N", "is_moment", "row_N")}
    x_RF = preprocessing.transform(made.table)
    return sequence.windows_for(Table(x_ND=x_RF, **fields, **times)).only(made.step_N)


def _keys(rows: Rows, names: Sequence[str], batch: Any) -> Any:
    """Key columns in the types of the whole table: files may differ in a column's width, or in a dictionary."""
    dtypes = [rows.schema.field(name).type for name in names]
    plain = [dtype.value_type if types.is_dictionary(dtype) else dtype for dtype in dtypes]
    return pa.table({name: batch.column(name).cast(dtype) for name, dtype in zip(names, plain, strict=True)})
