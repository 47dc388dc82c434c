"""From a place to the stream of its rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sources import read_table
from pipeline.data.sources.arrays import table_of
from pipeline.data.sources.csv import csv_rows
from pipeline.data.sources.function import returned_by, unexpected
from pipeline.data.sources.idx import read_idx
from pipeline.data.sources.images import image_folder
from pipeline.data.sources.npz import read_npz
from pipeline.data.sources.parquet import parquet_rows
from pipeline.data.sources.rows import Rows, batch_rows
from pipeline.data.sources.wholeness import require_whole
from pipeline.data.streams.batches import Part, parts_of
from pipeline.data.streams.frames import wanted_rows
from pipeline.data.streams.kinds import kind_of
from pipeline.data.streams.stream import Stream
from pipeline.data.streams.wanted import require_columns, wanted
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec


def open_stream(
    place: str, preprocessing: Preprocessing, source: str | None = None, keys: Sequence[str] = ()
) -> Stream:
    """The rows of any source as features of a model, a bounded number at a time.

    Tables are read batch by batch, only the columns that are features or keys, and images some at a time. Arrays, and
    what a function returns, are read once and cut.

    Args:
        place: A path, a URI such as s3://bucket/key, the name of a bundled data set, or
            `python:package.module:function`.
        preprocessing: What the model's features are made by.
        source: The kind of file; by default the place tells.
        keys: Columns of a table to hand on as they come; those of a CSV file are text.

    Raises:
        UserError: There is no such place, its kind is unknown, or it has not the columns that the model was trained on.
    """
    match kind_of(place, source):
        case "parquet":
            return _of_rows(parquet_rows(place, keys_are_text=True), preprocessing, keys)
        case "csv":
            return _of_rows(csv_rows(place), preprocessing, keys)
        case "python":
            return _of_returned(*returned_by(place), preprocessing, keys)
        case "images":
            return _of_images(place, preprocessing, keys)
        case kind:
            return _of_table(_read(kind, place), preprocessing, keys)


def _of_rows(rows: Rows, preprocessing: Preprocessing, keys: Sequence[str]) -> Stream:
    columns = wanted(preprocessing, keys)
    require_columns(rows, columns)
    return Stream(
        where=rows.where, count=rows.count, preprocessing=preprocessing, parts=partial(parts_of, rows, columns)
    )


def _of_returned(where: str, returned: Any, preprocessing: Preprocessing, keys: Sequence[str]) -> Stream:
    match returned:
        case pd.DataFrame() | (pd.DataFrame(), _):
            frame = returned if isinstance(returned, pd.DataFrame) else returned[0]
            return _of_rows(wanted_rows(frame, where, wanted(preprocessing, keys)), preprocessing, keys)
        case (x, _):
            return _of_table(table_of(x, None, where=where), preprocessing, keys)
        case Table():
            return _of_table(require_whole(replace(returned, where=where)), preprocessing, keys)
    raise unexpected(where, returned)


def _of_images(place: str, preprocessing: Preprocessing, keys: Sequence[str]) -> Stream:
    folder = image_folder(place)
    if preprocessing.pixels and len(preprocessing.pixels.image_shape) == 3 and folder.kind == "L":
        # Beside images in colour, gray ones were read as these are.
        folder = replace(folder, kind="RGB")
    return _of_cuts(folder.where, folder.table, (len(folder.headers), *folder.image_shape), preprocessing, keys)


def _read(kind: str, place: str) -> Table:
    match kind:
        case "npz":
            return read_npz(DataSpec(source=kind, path=place), has_labels=False)
        case "idx":
            return read_idx(DataSpec(source=kind, path=place), has_labels=False)
    return read_table(DataSpec(source=kind))


def _of_table(table: Table, preprocessing: Preprocessing, keys: Sequence[str]) -> Stream:
    def cut(rows: slice) -> Table:
        code_NC = table.code_NC[rows] if table.categories else table.code_NC
        return replace(table, x_ND=table.x_ND[rows], code_NC=code_NC, label_N=None, labels=(), split_N=None)

    return _of_cuts(table.where, cut, table.x_ND.shape, preprocessing, keys)


def _of_cuts(
    where: str, cut: Callable[[slice], Table], shape: tuple[int, ...], preprocessing: Preprocessing, keys: Sequence[str]
) -> Stream:
    """A stream of what has no columns to be keys: some rows at a time, of N in the shape (N, ...)."""
    if keys:
        raise UserError(f"{where}: has no columns, so none that could be a key; came the key {keys[0]!r}")

    def parts() -> Iterator[Part]:
        size = batch_rows(int(np.prod(shape[1:])))
        for first in range(0, shape[0], size):
            yield Part(first=first, table=cut(slice(first, first + size)), keys=pa.table({}))

    return Stream(where=where, count=shape[0], preprocessing=preprocessing, parts=parts)
