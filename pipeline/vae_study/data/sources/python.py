"""A user's own function, `python:package.module:function`, and pandas data frames as rows."""

import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import pandas as pd
import pyarrow as pa

from vae_study.config.data import DataConfig
from vae_study.data.sources.arrays import one_per_row, table_of_arrays
from vae_study.data.sources.category_index import labels_of_array
from vae_study.data.sources.files import no_such
from vae_study.data.sources.source import (
    TABLE_SETTINGS,
    Examples,
    ModelInput,
    Rows,
    Source,
    batch_rows,
    examples_of,
    forbid_setting,
)
from vae_study.data.sources.table_reader import build_table
from vae_study.data.table import Table, validate_table
from vae_study.errors import UserError

PREFIX = "python:"
_PAIR = ("X", "y")


def open_function(config: DataConfig, model: ModelInput | None) -> Rows | Examples:
    """What a function without arguments returns: a data frame, a pair of X and y, or a Table.

    The module may be in the current directory. Raise UserError if there is no such function, if it fails, or if it
    returns something else.
    """
    name = config.source.removeprefix(PREFIX).strip()
    where = f"{PREFIX}{name}"
    with _current_directory_on_path():
        returned = _called(where, _function(where, *name.split(":")))
    match returned:
        case pd.DataFrame():
            if model is None:
                forbid_setting(config, "layout", f"a data frame, which {where} returned")
            return frame_rows(returned, where, None if model is None else model.columns)
        case (pd.DataFrame() as x, label_N):
            if model is not None:
                return frame_rows(x, where, model.columns)
            forbid_setting(config, "label", f"a pair (X, y), which {where} returned")
            return examples_of(_labelled(build_table(frame_rows(x, where), config), label_N))
        case (x, label_N):
            _forbid_settings(where, config)
            label_N = label_N if model is None else None
            return examples_of(table_of_arrays(x, label_N, where=where, names=_PAIR, config=config, model=model))
        case Table():
            _forbid_settings(where, config)
            return examples_of(validate_table(replace(returned, where=where)))
    got = type(returned).__name__
    raise UserError(f"{where}: returned {got}, expected a pandas DataFrame, a pair (X, y) or a Table")


def _labelled(table: Table, label_N: Any) -> Table:
    """A table with labels from a pair such as scikit-learn's loaders give with `as_frame`."""
    if label_N is None:
        return table
    labels = one_per_row(label_N, len(table.x_ND), table.where, _PAIR)
    code_N, distinct = labels_of_array(table.where, "y", labels)
    return replace(table, label_N=code_N, labels=distinct)


def _forbid_settings(where: str, config: DataConfig) -> None:
    for setting in TABLE_SETTINGS:
        if setting == "missing_values":
            continue
        forbid_setting(config, setting, f"what {where} returned, which is no data frame")


def _function(where: str, module_name: str, name: str) -> Callable[[], Any]:
    try:
        module = import_module(module_name.strip())
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{where}: importing {module_name} failed: {error}") from error
        raise UserError(f"{where}: no module {error.name!r}, neither installed nor in the current directory") from error
    except Exception as error:
        raise UserError(f"{where}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
    if not callable(getattr(module, name, None)):
        raise no_such(where, "function", name, functions)
    function: Callable[[], Any] = getattr(module, name)
    return function


def _called(where: str, function: Callable[[], Any]) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UserError(f"{where}: needs arguments ({error}); expected a function without any") from error
    except ValueError:
        pass  # Some functions written in C have no signature.
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: raised {type(error).__name__}: {error}") from error


@contextmanager
def _current_directory_on_path() -> Iterator[None]:
    """An installed command does not look for modules there; `python -m` does."""
    added = os.getcwd()
    sys.path.insert(0, added)
    try:
        yield
    finally:
        sys.path.remove(added)


def frame_rows(frame: pd.DataFrame, where: str, only: Collection[str] | None = None) -> Rows:
    """The columns of a data frame, without its index.

    Args:
        frame: Any data frame.
        where: What messages call it.
        only: The columns to keep; the others may hold anything. None keeps all.
    """
    if only is not None:
        frame = frame.loc[:, [str(name) in only for name in frame.columns]]
    names = [str(name) for name in frame.columns]
    known = {index: _declared_type(frame.iloc[:0, index]) for index in range(len(names))}
    # The type of Python objects is known from all of them; other columns need no copy.
    objects = {index: _object_array(frame.iloc[:, index]) for index, dtype in known.items() if dtype is None}
    dtypes = [objects[index].type if dtype is None else dtype for index, dtype in known.items()]

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        indices = [names.index(name) for name in wanted]
        size = batch_rows(len(indices))
        for start in range(0, len(frame), size):
            rows = slice(start, start + size)
            columns = [_slice(frame.iloc[rows, index], objects.get(index), rows) for index in indices]
            yield pa.RecordBatch.from_arrays(columns, list(wanted))

    fields = [pa.field(name, dtype) for name, dtype in zip(names, dtypes, strict=True)]
    return Rows(where=where, schema=pa.schema(fields), count=len(frame), batches=batches)


def frame_table(frame: pd.DataFrame) -> pa.Table:
    """The columns of a data frame as an Arrow table; mixed values become text. Raise UserError if two have one name."""
    rows = frame_rows(frame, "the data frame")
    names = list(rows.schema.names)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"data: the data frame has the column {twice[0]!r} more than once; expected one of each name")
    return pa.Table.from_batches(list(rows.batches(names)), rows.schema)


def _declared_type(nothing: "pd.Series[Any]") -> Any:
    """The Arrow type of a column; None for Python objects."""
    try:
        return None if nothing.dtype == object else _array(nothing).type
    except (pa.ArrowException, TypeError, ValueError):
        return None


def _object_array(series: "pd.Series[Any]") -> Any:
    try:
        return _array(series)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Values of several types, such as numbers and "n/a": the table reader gets them as text, counts and shows them.
        return pa.array([None if pd.api.types.is_scalar(v) and pd.isna(v) else str(v) for v in series], pa.string())


def _slice(series: "pd.Series[Any]", objects: Any, rows: slice) -> Any:
    piece = _array(series) if objects is None else objects[rows]
    return piece.combine_chunks() if isinstance(piece, pa.ChunkedArray) else piece


def _array(series: "pd.Series[Any]") -> Any:
    # Pandas would warn about the time zone that it drops.
    is_zoned = isinstance(series.dtype, pd.DatetimeTZDtype)
    return pa.array(series.dt.tz_convert(None) if is_zoned else series, from_pandas=True)


SOURCES = (Source(name="python", open=open_function, settings=(*TABLE_SETTINGS, "layout")),)
