"""The rows of a request over HTTP, as JSON or CSV, and the features of several requests at once.

JSON has the forms of MLflow's scoring protocol; CSV is read as a CSV file is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from vae_study.data.preprocessing import Preprocessing
from vae_study.data.sources.csv import csv_rows
from vae_study.data.sources.files import column_error
from vae_study.data.sources.source import CSV_SETTINGS, TABLE_SETTINGS, Rows
from vae_study.data.sources.table_reader import TABLE, require_once
from vae_study.data.stream import reading_config, rows_features
from vae_study.errors import UserError

WHERE = "the request"
RECORDS, SPLIT = ("dataframe_records", "instances", "inputs"), "dataframe_split"
EXPECTED = f"expected one of {', '.join([SPLIT, *RECORDS])} with the rows"
SCALARS = {int, float, str, bool}
MESSAGE_CHARACTERS = 200

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class RequestRows:
    """The rows of a request.

    Attributes:
        rows: As a source gives them.
        table: The model's columns that there are, in memory.
    """

    rows: Rows
    table: Any

    @property
    def kind(self) -> object:
        """Requests of one kind can be read as one table: each value is then what it is alone."""
        numbers_as = tuple(sorted((key, str(value)) for key, value in self.rows.numbers_as.items()))
        return self.rows.is_typed, self.table.schema.to_string(), numbers_as


@dataclass(frozen=True)
class _Body:
    """Bytes in the place of a file system."""

    content: bytes

    def open_input_stream(self, path: str, compression: str | None = None) -> Any:
        """The bytes as a file."""
        return pa.BufferReader(self.content)


def csv_request(content: bytes, preprocessing: Preprocessing) -> RequestRows:
    """The rows of CSV text, in the dialect of the training data where the study file declares one.

    Raise UserError, with the line, if it is no CSV.
    """
    config = reading_config(preprocessing, (*TABLE_SETTINGS, *CSV_SETTINGS), "csv", WHERE)
    rows = csv_rows(WHERE, _Body(content), "", config)
    found = [name for name in preprocessing.read_names if name in rows.schema.names]
    require_once(WHERE, TABLE, [name for name in rows.schema.names if name in {*found}])
    schema = pa.schema([(name, pa.string()) for name in found])
    return _in_memory(rows, pa.Table.from_batches(rows.batches(found), schema) if found else schema.empty_table())


def json_request(content: bytes, preprocessing: Preprocessing) -> RequestRows:
    """The rows of a JSON object in one of the forms of MLflow; other keys, as `params`, are ignored.

    Raise UserError if it is none, or if a value is no number, text or truth value.
    """
    try:
        plain = json.loads(content)
    except RecursionError:
        raise UserError(f"{WHERE}: is nested too deeply; {EXPECTED}") from None
    except ValueError as error:
        raise UserError(f"{WHERE}: not valid JSON: {str(error)[:MESSAGE_CHARACTERS]}; {EXPECTED}") from None
    forms = [form for form in (SPLIT, *RECORDS) if isinstance(plain, dict) and form in plain]
    if len(forms) != 1:
        raise UserError(f"{WHERE}: got {' and '.join(forms) or 'none'} of the forms of rows; {EXPECTED}")
    rows, names = plain[forms[0]], preprocessing.read_names
    if forms[0] == SPLIT:
        if not isinstance(rows, dict) or not isinstance(rows.get("columns"), list):
            raise UserError(f"{WHERE}: {SPLIT}: expected columns, a list of names, and data, a list of rows")
        columns = _of_lists(rows.get("data"), [str(name) for name in rows["columns"]], names)
    elif isinstance(rows, dict):
        columns = _of_columns(rows, names)
    elif isinstance(rows, list) and rows and isinstance(rows[0], list):
        columns = _of_lists(rows, names, names)
    else:
        columns = _of_records(rows, names)
    numbers = {*names} if preprocessing.pixels else {one.name for one in preprocessing.numbers if not one.origin}
    arrays = {name: _array(name, columns[name], name in numbers) for name in names if name in columns}
    table = pa.table(arrays)
    return _in_memory(Rows(where=WHERE, schema=table.schema, count=None, batches=lambda wanted: iter(())), table)


def request_features(requests: Sequence[RequestRows], preprocessing: Preprocessing) -> Any:
    """The features x_ND of the rows of requests of one kind, one after the other.

    Raise UserError if a column is missing, or if a column or a value is not what the model takes it for; the number of
    a row is right if there is one request. Of a model of windows, there has to be one, with its rows in time.
    """
    table = pa.concat_tables([one.table for one in requests])
    return rows_features(_in_memory(requests[0].rows, table).rows, preprocessing)


def _in_memory(rows: Rows, table: Any) -> RequestRows:
    if not len(table) and table.column_names:
        raise UserError(f"{WHERE}: holds no rows; expected at least one")

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        yield from table.select(wanted).combine_chunks().to_batches()

    return RequestRows(rows=replace(rows, count=len(table), batches=batches), table=table)


def _of_lists(data: Any, given: Sequence[str], names: Sequence[str]) -> Columns:
    """The columns of rows that are lists of values, in the order of the given names."""
    require_once(WHERE, TABLE, [name for name in given if name in {*names}])
    for number, row in enumerate(_listed(data), 1):
        if not isinstance(row, list) or len(row) != len(given):
            got = f"{len(row)} values" if isinstance(row, list) else "no list"
            raise UserError(f"{WHERE}: row {number:,}: got {got}, expected a list of {len(given)} values")
    return {name: [row[index] for row in data] for index, name in enumerate(given) if name in {*names}}


def _of_records(data: Any, names: Sequence[str]) -> Columns:
    """The columns of rows that are objects; a row without a column that others have has a missing value there."""
    there: set[str] = set()
    for number, row in enumerate(_listed(data), 1):
        if not isinstance(row, dict):
            raise UserError(f"{WHERE}: row {number:,}: got {_named(row)}, expected an object of columns and values")
        there |= row.keys()
    return {name: [row.get(name) for row in data] for name in names if name in there}


def _of_columns(data: Mapping[str, Any], names: Sequence[str]) -> Columns:
    """The columns of an object of columns, each a list, or one value."""
    columns = {name: data[name] if isinstance(data[name], list) else [data[name]] for name in names if name in data}
    counts = {name: len(values) for name, values in columns.items()}
    odd = next((name for name, count in counts.items() if count != next(iter(counts.values()))), None)
    if odd is not None:
        expected = f"expected {next(iter(counts.values())):,}, as in column {next(iter(counts))!r}"
        raise column_error(WHERE, odd, f"got {counts[odd]:,} values, {expected}")
    return columns


def _listed(data: Any) -> Sequence[Any]:
    if not isinstance(data, list) or not data:
        raise UserError(f"{WHERE}: got {_named(data)} as rows, expected a list with at least one")
    return data


def _array(name: str, values: Sequence[Any], is_number: bool) -> Any:
    """The values of a column as a pyarrow array; whole numbers are floats where these hold them."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds <= SCALARS:
        row = next(row for row, value in enumerate(values, 1) if value is not None and type(value) not in SCALARS)
        said = f"got {_named(values[row - 1])} in row {row:,}; expected a number, a text, true, false or null"
        raise column_error(WHERE, name, said)
    try:
        if kinds <= {int, float} and is_number:
            return pa.array(values, pa.float64(), from_pandas=True)
        return pa.array(values, None if kinds else pa.string(), from_pandas=True)
    except UnicodeError:
        raise column_error(WHERE, name, "holds a text that is no Unicode; expected whole characters") from None
    except (pa.ArrowException, OverflowError):
        # Numbers beyond 64 bits, or of several types: read as they are spelled.
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _named(value: Any) -> str:
    names = {dict: "an object", list: "a list" if value else "an empty list", type(None): "null"}
    return names.get(type(value), "a value")
