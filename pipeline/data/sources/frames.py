"""Pandas data frames as rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from pipeline.data.sources.rows import Rows, batch_rows


def frame_rows(frame: pd.DataFrame, where: str) -> Rows:
    """The columns of a data frame; its index is none of them."""
    names = [str(name) for name in frame.columns]
    known = {place: _type(frame.iloc[:0, place]) for place in range(len(names))}
    # Only the whole of a column of Python objects says what they have in common; the others need no copy.
    whole = {place: _objects(frame.iloc[:, place]) for place, kind in known.items() if kind is None}
    kinds = [whole[place].type if kind is None else kind for place, kind in known.items()]

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        places = [names.index(name) for name in wanted]
        size = batch_rows(len(places))
        for start in range(0, len(frame), size):
            rows = slice(start, start + size)
            columns = [_piece(frame.iloc[rows, place], whole.get(place), rows) for place in places]
            yield pa.RecordBatch.from_arrays(columns, list(wanted))

    fields = [pa.field(name, kind) for name, kind in zip(names, kinds, strict=True)]
    return Rows(where=where, schema=pa.schema(fields), count=len(frame), batches=batches)


def _type(nothing: "pd.Series[Any]") -> Any:
    """The Arrow type of a column; None for Python objects."""
    try:
        return None if nothing.dtype == object else _array(nothing).type
    except (pa.ArrowException, TypeError, ValueError):
        return None


def _objects(series: "pd.Series[Any]") -> Any:
    try:
        return _array(series)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Values of several types, such as numbers and "n/a": as text they reach the table, which counts and shows them.
        return pa.array([None if pd.api.types.is_scalar(v) and pd.isna(v) else str(v) for v in series], pa.string())


def _piece(series: "pd.Series[Any]", whole: Any, rows: slice) -> Any:
    piece = _array(series) if whole is None else whole[rows]
    return piece.combine_chunks() if isinstance(piece, pa.ChunkedArray) else piece


def _array(series: "pd.Series[Any]") -> Any:
    # On its way to Arrow, pandas warns of the time zone that it drops.
    is_zoned = isinstance(series.dtype, pd.DatetimeTZDtype)
    return pa.array(series.dt.tz_convert(None) if is_zoned else series, from_pandas=True)
