"""What a text column's values read as, all of them: integers, numbers, truth values, times, or text after all."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.sources.kinds import is_text
from pipeline.data.sources.problems import column_error
from pipeline.data.sources.rows import Rows

TEXT = pa.string()
INTEGER, REAL, TRUTH = pa.int64(), pa.float64(), pa.bool_()
_CANDIDATES = (INTEGER, REAL, TRUTH, pa.timestamp("ns"), pa.timestamp("ns", "UTC"))
# What pandas, numpy, R and databases write for a missing number. In a column of words, NA may be Namibia.
MISSING_WORDS = ("", "NA", "NaN", "nan", "NULL", "null")


def settled(rows: Rows, names: Sequence[str], as_declared: Collection[str] = ()) -> Rows:
    """The same rows, with text columns as what they hold.

    Args:
        rows: The rows, which are read once through where only reading tells how many there are.
        names: The columns to keep.
        as_declared: Those of them that stay text where they are text.

    Returns:
        Rows with a count, whose schema has `names` only.
    """
    open_names = [name for name in names if name not in as_declared and is_text(rows.schema.field(name).type)]
    if rows.count is not None and not open_names:
        return replace(rows, schema=pa.schema([rows.schema.field(name) for name in names]))
    kinds, count = _kinds(rows, open_names)
    fields = [(name, kinds.get(name, rows.schema.field(name).type)) for name in names]
    changed = {name: kind for name, kind in kinds.items() if kind != TEXT}

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        for batch in rows.batches(wanted):
            yield _converted_batch(rows.where, batch, changed)

    return replace(rows, schema=pa.schema(fields), count=count, batches=batches)


def narrowest(column: Any, so_far: Any = None) -> Any:
    """The first type that the values of a batch, and all before them, read as.

    Args:
        column: A pyarrow array of text.
        so_far: What the values before it read as; None where all were missing.
    """
    if so_far == TEXT:
        return TEXT
    column = column.cast(TEXT)
    if so_far is None:
        column = _without_missing_words(column)
        if column.null_count == len(column):
            return None
    candidates = _CANDIDATES if so_far is None else (INTEGER, REAL) if so_far == INTEGER else (so_far,)
    return next((kind for kind in candidates if converted(column, kind) is not None), TEXT)


def converted(column: Any, kind: Any) -> Any:
    """A text column as another type, missing words as nulls; None where a value does not read as one."""
    column = column.cast(TEXT)
    if kind == TRUTH:
        return _truths(_without_missing_words(column))
    try:
        return column.cast(kind)
    except pa.ArrowInvalid:
        pass
    try:
        return _without_missing_words(column).cast(kind)
    except pa.ArrowInvalid:
        return None


def _kinds(rows: Rows, names: Sequence[str]) -> tuple[Mapping[str, Any], int]:
    kinds: dict[str, Any] = dict.fromkeys(names)
    count = 0
    for batch in rows.batches(names):
        count += batch.num_rows
        kinds = {name: narrowest(batch.column(name), kind) for name, kind in kinds.items()}
        if rows.count is not None and all(kind == TEXT for kind in kinds.values()):
            break
    # A column without a single value counts as numbers, all of them missing.
    kinds = {name: REAL if kind is None else kind for name, kind in kinds.items()}
    return kinds, count if rows.count is None else rows.count


def _converted_batch(where: str, batch: Any, kinds: Mapping[str, Any]) -> Any:
    names = batch.schema.names
    columns = []
    for name in names:
        column = converted(batch.column(name), kinds[name]) if name in kinds else batch.column(name)
        if column is None:
            raise column_error(where, name, "changed while it was being read; expected a file that stays as it is")
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names)


def _without_missing_words(column: Any) -> Any:
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(MISSING_WORDS, TEXT)), pa.scalar(None, TEXT), trimmed)


def _truths(column: Any) -> Any:
    """Arrow's own cast would take 0 and 1 too, which are numbers."""
    lower = pc.utf8_lower(column)
    known = pc.all(pc.is_in(lower.drop_null(), value_set=pa.array(["true", "false"])), min_count=0).as_py()
    return pc.equal(lower, "true") if known else None
