"""Parquet: one file, or a folder of files, on this machine or behind s3://."""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vae_study.config.data import DataConfig
from vae_study.data.sources.files import column_error, located, reading
from vae_study.data.sources.source import FILE, FOLDER, TABLE_SETTINGS, URI, ModelInput, Rows, Source, batch_rows
from vae_study.data.sources.table_reader import TABLE, require_once
from vae_study.data.sources.type_inference import converted, narrowest_type
from vae_study.errors import UserError

_KIND = "Parquet"
# Read-ahead of all columns together, in bytes: small compared to the features, large compared to a request to S3.
_BUFFER = 64 << 20
# The folders by which table formats are known, whose live rows are not those of all Parquet files.
TABLE_FORMATS = {"_delta_log": "a Delta Lake table", ".hoodie": "a Hudi table"}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, kw_only=True)
class _File:
    """One file of a table.

    Attributes:
        path: In its file system.
        where: What messages call it.
        schema: Of the columns that it holds.
        keys: The values in the names of its folders (year=2024), as text.
    """

    path: str
    where: str
    count: int
    schema: Any
    keys: Mapping[str, str | None]


def open_parquet(config: DataConfig, model: ModelInput | None) -> Rows:
    """The rows of a Parquet file, or of all files of a folder (also year=2024/part-0.parquet) in the order of names.

    For scoring, columns that only the names of folders hold stay text: how all of them read is not known.

    Raise UserError if there is no such file or folder, or if it holds something else.
    """
    given = str(config.path)
    system, info = located(given)
    with reading(given, "a folder of Parquet files"):
        files = [_opened(system, path, where, keys) for path, where, keys in _found(system, info, given)]
    partition = _partition(files, are_text=model is not None)
    schema = _schema(given, files, partition)

    def batches(names: Sequence[str]) -> Iterator[Any]:
        for file in files:
            with reading(file.where, _KIND):
                yield from _batches(system, file, names, partition)

    count = sum(file.count for file in files)
    keys = tuple(partition)
    return Rows(where=given, schema=schema, count=count, batches=batches, index=_index(files[0]), folder_keys=keys)


def _found(system: Any, info: Any, given: str) -> Iterator[tuple[str, str, Mapping[str, str | None]]]:
    """Path, name for messages and folder keys of each file."""
    if info.type == fs.FileType.File:
        yield info.path, given, {}
        return
    inside = system.get_file_info(fs.FileSelector(info.path, recursive=True))
    for found in inside:
        if (name := posixpath.basename(found.path)) in TABLE_FORMATS or _is_iceberg(found.path):
            kind = TABLE_FORMATS.get(name, "an Iceberg table")
            raise UserError(
                f"data.path: got {given!r}, which is {kind} ({posixpath.relpath(found.path, info.path)}): some of its "
                f"Parquet files may be replaced or deleted; expected plain Parquet files, such as an export of the "
                f"table, or python:package.module:function that reads it"
            )
    within = {
        posixpath.relpath(found.path, info.path): found.path for found in inside if found.type == fs.FileType.File
    }
    # Names such as _SUCCESS and .part-0.crc belong to the writer.
    visible = [name for name in sorted(within) if not any(part[0] in "._" for part in name.split("/"))]
    if not visible:
        raise UserError(f"data.path: got {given!r}, a folder without a Parquet file")
    for name in visible:
        pairs = (part.partition("=") for part in name.split("/")[:-1])
        keys = {key: None if value == _NO_VALUE else unquote(value) for key, equals, value in pairs if equals}
        yield within[name], posixpath.join(given, name), keys


def _is_iceberg(path: str) -> bool:
    folder, name = posixpath.split(path)
    is_metadata = name.endswith((".metadata.json", ".avro")) or name == "version-hint.text"
    return is_metadata and posixpath.basename(folder) == "metadata"


def _opened(system: Any, path: str, where: str, keys: Mapping[str, str | None]) -> _File:
    with reading(where, _KIND), system.open_input_file(path) as stream:
        file = pq.ParquetFile(stream)
        require_once(where, TABLE, file.schema_arrow.names)
        return _File(path=path, where=where, count=file.metadata.num_rows, schema=file.schema_arrow, keys=keys)


def _partition(files: Sequence[_File], *, are_text: bool) -> Mapping[str, Any]:
    """The types of the columns that only the names of folders hold."""
    inside = {name for file in files for name in file.schema.names}
    names = dict.fromkeys(key for file in files for key in file.keys if key not in inside)
    if are_text:
        return dict.fromkeys(names, pa.string())
    values = {name: pa.array([file.keys.get(name) for file in files], pa.string()) for name in names}
    return {name: narrowest_type(column) or pa.string() for name, column in values.items()}


def _schema(given: str, files: Sequence[_File], partition: Mapping[str, Any]) -> Any:
    """The columns of all files; if a column's width differs between files, the wider."""
    try:
        schema = pa.unify_schemas([file.schema for file in files], promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"{given}: its files do not fit together ({error}); expected the same columns") from error
    return pa.schema([*schema, *(pa.field(name, dtype) for name, dtype in partition.items())])


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
            # Parquet does not check that text is UTF-8.
            batch.validate(full=True)
            columns = [_column(batch, name, file, partition) for name in names]
            yield pa.RecordBatch.from_arrays(columns, list(names))


def _column(batch: Any, name: str, file: _File, partition: Mapping[str, Any]) -> Any:
    if name not in partition:
        return batch.column(name)
    value = pa.scalar(file.keys.get(name), pa.string())
    return converted(pa.repeat(value, batch.num_rows), partition[name])


SOURCES = (
    Source(
        name="parquet",
        open=open_parquet,
        settings=TABLE_SETTINGS,
        paths=(FILE, FOLDER, URI),
        files=r".*\.(parquet|pq)",
    ),
)
