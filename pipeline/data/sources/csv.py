"""Comma-separated values, gzipped or not, here or in s3://."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import csv

from pipeline.data.sources.categories import reads_as_number
from pipeline.data.sources.files import located_file
from pipeline.data.sources.problems import reading
from pipeline.data.sources.rows import Rows
from pipeline.data.sources.tables import build
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

_KIND = "CSV"
# A block must hold the longest line, and several are in memory at a time. Threads would cost a message its row number.
_READ = csv.ReadOptions(block_size=2 << 20, use_threads=False)
_PARSE = csv.ParseOptions(newlines_in_values=True)
_OTHER_SEPARATORS = ";\t|"


def read_csv(spec: DataSpec) -> Table:
    """A CSV file with the columns' names in its first line; types are what all values of a column read as."""
    return build(csv_rows(str(spec.path)), spec)


def csv_rows(given: str) -> Rows:
    """The rows of a CSV file, all of them text.

    Args:
        given: A path, or a URI such as s3://bucket/key.

    Raises:
        UserError: There is no such file, or its first line does not hold the columns' names.
    """
    system, path = located_file(given)
    with reading(given, _KIND):
        header = _header(system, path)
    names = _names(given, header)

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        raw = {name: names[name] for name in wanted}
        with reading(given, _KIND):
            yield from _batches(system, path, raw)

    # Twice the same name is for the table to refuse.
    schema = pa.schema([(name.strip(), pa.string()) for name in header])
    index = ("",) if header[0] == "" else ()
    return Rows(where=given, schema=schema, count=None, batches=batches, is_typed=False, index=index)


def _header(system: Any, path: str) -> list[str]:
    with system.open_input_stream(path) as stream, csv.open_csv(stream, _READ, _PARSE) as reader:
        names: list[str] = reader.schema.names
        return names


def _names(given: str, header: Sequence[str]) -> Mapping[str, str]:
    """The names as they are in the file, by what they are called."""
    if len(header) == 1 and any(separator in header[0] for separator in _OTHER_SEPARATORS):
        raise UserError(f"{given}: one column named {header[0]!r}; expected columns separated by commas")
    if all(map(reads_as_number, header)) and not all(name.strip().isdigit() for name in header):
        raise UserError(f"{given}: the first line holds numbers ({header[0]}, ...); expected the columns' names there")
    return {name.strip(): name for name in header}


def _batches(system: Any, path: str, raw: Mapping[str, str]) -> Iterator[Any]:
    # All is read as text: Arrow's own guess sees the first block only, and fails where a later one differs. An empty
    # text in quotes is a text, without them it is missing.
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(raw.values(), pa.string()),
        include_columns=list(raw.values()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with system.open_input_stream(path) as stream, csv.open_csv(stream, _READ, _PARSE, convert) as reader:
        for batch in reader:
            yield batch.rename_columns(list(raw))
