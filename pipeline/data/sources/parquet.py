"""Parquet: one file, or a folder of files, here or in s3://."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipeline.data.sources.files import located
from pipeline.data.sources.problems import column_error, reading
from pipeline.data.sources.roles import require_once
from pipeline.data.sources.rows import Rows, batch_rows
from pipeline.data.sources.settling import converted, narrowest
from pipeline.data.sources.tables import build
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

_KIND = "Parquet"
# Read-ahead of all columns together, in bytes: small beside the features, large beside a request to S3.
_BUFFER = 64 << 20
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class _File:
    """One file of a table.

    Attributes:
        path: In its file system.
        where: As the user would call it.
        schema: Of the columns that it holds.
        keys: What the names of its folders say (year=2024), as text.
    """

    path: str
    where: str
    count: int
    schema: Any
    keys: Mapping[str, str | None]


def read_parquet(spec: DataSpec) -> Table:
    """A Parquet file, or all files of a folder (also year=2024/part-0.parquet) in the order of their names."""
    return build(parquet_rows(str(spec.path)), spec)


def parquet_rows(given: str, *, keys_are_text: bool = False) -> Rows:
    """The rows of a Parquet file, or of all files of a folder.

    Args:
        given: A path, or a URI such as s3://bucket/key.
        keys_are_text: Whether columns that only the names of folders hold stay text, whatever all their values read as.

    Raises:
        UserError: There is no such file or folder, or it holds something else.
    """
    system, info = located(given)
    with reading(given, "a folder of Parquet files"):
        files = [_opened(system, path, where, keys) for path, where, keys in _found(system, info, given)]
    partition = _partition(files, keys_are_text)
    schema = _schema(given, files, partition)

    def batches(names: Sequence[str]) -> Iterator[Any]:
        for file in files:
            with reading(file.where, _KIND):
                yield from _batches(system, file, names, partition)

    count = sum(file.count for file in files)
    keys = tuple(partition)
    return Rows(where=given, schema=schema, count=count, batches=batches, index=_index(files[0]), folder_keys=keys)


def _found(system: Any, info: Any, given: str) -> Iterator[tuple[str, str, Mapping[str, str | None]]]:
    """Path, name for the user and folder keys of each file."""
    if info.type == fs.FileType.File:
        yield info.path, given, {}
        return
    within = {
        posixpath.relpath(found.path, info.path): found.path
        for found in system.get_file_info(fs.FileSelector(info.path, recursive=True))
        if found.type == fs.FileType.File
    }
    # Names such as _SUCCESS and .part-0.crc belong to the writer.
    visible = [name for name in sorted(within) if not any(part[0] in "._" for part in name.split("/"))]
    if not visible:
        raise UserError(f"data.path: came {given!r}, a folder without a Parquet file")
    for name in visible:
        pairs = (part.partition("=") for part in name.split("/")[:-1])
        keys = {key: None if value == _NO_VALUE else unquote(value) for key, equals, value in pairs if equals}
        yield within[name], posixpath.join(given, name), keys


def _opened(system: Any, path: str, where: str, keys: Mapping[str, str | None]) -> _File:
    with reading(where, _KIND), system.open_input_file(path) as stream:
        file = pq.ParquetFile(stream)
        require_once(where, "the table", file.schema_arrow.names)
        return _File(path=path, where=where, count=file.metadata.num_rows, schema=file.schema_arrow, keys=keys)


def _partition(files: Sequence[_File], are_text: bool) -> Mapping[str, Any]:
    """The types of the columns that only the names of folders hold."""
    inside = {name for file in files for name in file.schema.names}
    names = dict.fromkeys(key for file in files for key in file.keys if key not in inside)
    if are_text:
        return dict.fromkeys(names, pa.string())
    values = {name: pa.array([file.keys.get(name) for file in files], pa.string()) for name in names}
    return {name: narrowest(column) or pa.string() for name, column in values.items()}


def _schema(given: str, files: Sequence[_File], partition: Mapping[str, Any]) -> Any:
    """The columns of all files; where these differ in a number's width, the wider."""
    try:
        schema = pa.unify_schemas([file.schema for file in files], promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"{given}: its files do not fit together ({error}); expected the same columns") from error
    return pa.schema([*schema, *(pa.field(name, kind) for name, kind in partition.items())])


def _index(file: _File) -> tuple[str, ...]:
    with reading(file.where, _KIND):
        written = (file.schema.pandas_metadata or {}).get("index_columns", [])
    return tuple(name for name in written if isinstance(name, str) and name in file.schema.names)


def _batches(system: Any, file: _File, names: Sequence[str], partition: Mapping[str, Any]) -> Iterator[Any]:
    inside = [name for name in names if name not in partition]
    for name in inside:
        if name not in file.schema.names:
            raise column_error(file.where, name, "not in this file; expected the columns of the other files")
    rows = batch_rows(len(names))
    buffer = min(max(_BUFFER // max(len(inside), 1), 64 << 10), 4 << 20)
    with system.open_input_file(file.path) as stream:
        # Without pre_buffer and with a buffer, a row group is decoded piece by piece and never whole.
        whole = pq.ParquetFile(stream, pre_buffer=False, buffer_size=buffer)
        for batch in whole.iter_batches(rows, columns=inside):
            # Parquet takes the writer's word for text being UTF-8.
            batch.validate(full=True)
            columns = [_column(batch, name, file, partition) for name in names]
            yield pa.RecordBatch.from_arrays(columns, list(names))


def _column(batch: Any, name: str, file: _File, partition: Mapping[str, Any]) -> Any:
    if name not in partition:
        return batch.column(name)
    value = pa.scalar(file.keys.get(name), pa.string())
    return converted(pa.repeat(value, batch.num_rows), partition[name])
