"""The node's cache of prepared data: the first process writes an entry, all processes map it into memory."""

import hashlib
import itertools
import json
import mmap
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray

from vae_study.config.data import DataConfig
from vae_study.data.builder import DatasetBuilder
from vae_study.data.dataset import Dataset, DatasetInfo, Split, info_from_plain
from vae_study.data.splits import SPLIT_NAMES
from vae_study.data.table import Factor
from vae_study.storage import cache_folder, writing_to_cache

# Increase it whenever the files, or the way they are computed, change.
VERSION = 8
SECONDS_UNUSED = 7 * 24 * 3600
INFO = "info.json"
# What the names of a split's two files end with.
FEATURES, ROWS = ".npy", ".arrow"
# What the names of the columns of factors begin with.
FACTOR = "factor "
# Of windows, which of their rows are anomalous.
POINTS = ".points.npy"
# Of the windows of test, when their rows are.
TIMES = ".times.arrow"
# Of the pictures of test, which of their pixels are anomalous.
MASKS = ".masks.npy"
# What reading a truncated or foreign entry may raise.
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, pa.ArrowException)
# More than 2**31 values may be in one batch.
OPTIONS = pa.ipc.IpcWriteOptions(allow_64bit=True)
Number = TypeVar("Number", bound=np.generic)


def cached_dataset(config: DataConfig, sha256: str, make: Callable[[], DatasetBuilder]) -> Dataset:
    """The data set of a config and a fingerprint, from the node's cache.

    Raise UserError if the cache cannot be written.

    Args:
        config: With absolute paths.
        sha256: The fingerprint of the source's content.
        make: Called if the cache has no valid entry; makes the data set with that fingerprint.
    """
    key = hashlib.sha256(f"{VERSION} {sha256} {config.model_dump_json()}".encode()).hexdigest()
    entry = cache_folder() / key
    found = _open_valid(entry)
    if found is not None:
        return found
    with writing_to_cache() as folder:
        lock = FileLock(folder / f"{key}.lock").acquire()
    with lock:
        found = _open_valid(entry)
        if found is not None:
            return found
        builder = make()
        with writing_to_cache() as folder:
            _write_entry(entry, builder)
            _remove_unused(folder)
    return _open_entry(entry)


def _open_valid(entry: Path) -> Dataset | None:
    try:
        return _open_entry(entry)
    except BROKEN:
        return None


@lru_cache(maxsize=2)
def _open_entry(entry: Path) -> Dataset:
    """The data set of an entry whose file sizes are right; a process maps it once.

    Raise one of BROKEN if there is no valid entry.
    """
    plain = json.loads((entry / INFO).read_text(encoding="utf-8"))
    if (plain["key"], plain["sizes"]) != (entry.name, _sizes(entry)):
        raise ValueError(f"{entry} is truncated, or another entry")
    with suppress(OSError):
        os.utime(entry / INFO)
    info = info_from_plain(plain["info"])
    return Dataset(**vars(info), splits={name: map_split(entry / name, info) for name in SPLIT_NAMES})


def _sizes(entry: Path) -> dict[str, int]:
    names = [f"{name}{suffix}" for name in SPLIT_NAMES for suffix in (FEATURES, ROWS)]
    names += [path.name for suffix in (POINTS, TIMES, MASKS) for path in sorted(entry.glob(f"*{suffix}"))]
    return {name: (entry / name).stat().st_size for name in names}


def _write_entry(entry: Path, builder: DatasetBuilder) -> None:
    """Write an entry into a new folder, then rename it: other processes never see half of it."""
    new = entry.with_name(f"{uuid.uuid4().hex}.new")
    new.mkdir(mode=0o700)
    try:
        for name in SPLIT_NAMES:
            write_split(new / name, builder, name)
        plain = {"key": entry.name, "sizes": _sizes(new), "info": builder.info.plain()}
        (new / INFO).write_text(json.dumps(plain), encoding="utf-8")
        if entry.is_file():
            entry.unlink()
        shutil.rmtree(entry, ignore_errors=True)
        new.rename(entry)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _remove_unused(folder: Path) -> None:
    """Remove entries that no process has opened for a week; a process that has one mapped keeps it until it ends."""
    for entry in folder.iterdir():
        # Another process may remove the same one.
        with suppress(OSError):
            info = entry / INFO
            used = (info if info.exists() else entry).stat().st_mtime
            if entry.is_dir() and time.time() - used > SECONDS_UNUSED:
                shutil.rmtree(entry)


def write_split(path: Path, builder: DatasetBuilder, name: str) -> None:
    """Write a split into two files beside each other, without a second copy of it in memory.

    `path`.npy has its features, of windows those of the rows that they cover, of images of 8 bits their bytes.
    `path`.arrow has one record batch with the columns anomaly and row, and label, file, start (of whole series also
    length) and `factor NAME` if there are labels, files, windows and factors. Of windows, `path`.points.npy says which
    of the rows are anomalous, and of test `path`.times.arrow when they are. Of images of test with masks,
    `path`.masks.npy has these.
    """
    split = builder.bare_split(name)
    examples, rows, features = len(split.row_N), len(builder.rows[name]), len(builder.info.preprocessing.row_features)
    with Path(f"{path}{FEATURES}").open("wb") as stream:
        header = {
            "descr": "|u1" if builder.table.is_bytes else "<f4",
            "fortran_order": False,
            "shape": (rows, features),
        }
        np.lib.format.write_array_header_1_0(stream, header)
        for x_ND in builder.features(name):
            stream.write(x_ND.data)
    columns = {
        "anomaly": _column(split.is_anomaly_N, pa.uint8(), examples),
        "row": _column(split.row_N, pa.int64(), examples),
    }
    if split.label_code_N is not None:
        codes = _column(split.label_code_N, pa.int32(), examples)
        columns["label"] = pa.DictionaryArray.from_arrays(codes, pa.array(split.labels, pa.string()))
    for factor in split.factors:
        codes, kind = _column(factor.code_N, pa.int32(), examples), pa.float64() if factor.is_number else pa.string()
        columns[f"{FACTOR}{factor.name}"] = pa.DictionaryArray.from_arrays(codes, pa.array(factor.values, kind))
    if split.file_N is not None:
        columns["file"] = split.file_N
    if split.start_N is not None and split.is_anomaly_R is not None:
        columns["start"] = _column(split.start_N, pa.int64(), examples)
        if split.length_N is not None:
            columns["length"] = _column(split.length_N, pa.int64(), examples)
        np.save(f"{path}{POINTS}", split.is_anomaly_R)
    if split.rows_R is not None:
        _write_arrow(Path(f"{path}{TIMES}"), split.rows_R)
    _write_masks(Path(f"{path}{MASKS}"), builder.masks(name), examples)
    _write_arrow(Path(f"{path}{ROWS}"), pa.record_batch(columns))


def _write_masks(path: Path, masks: Iterator[NDArray[np.bool_]], examples: int) -> None:
    """One after the other: together they may be larger than memory."""
    first = next(masks, None)
    if first is None:
        return
    with path.open("wb") as stream:
        header = {"descr": "|b1", "fortran_order": False, "shape": (examples, len(first))}
        np.lib.format.write_array_header_1_0(stream, header)
        for mask_P in itertools.chain([first], masks):
            stream.write(mask_P.data)


def _write_arrow(path: Path, content: Any) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, content.schema, options=OPTIONS) as writer:
        writer.write(content)


def _column(values: NDArray[np.generic], dtype: pa.DataType, length: int) -> pa.Array:
    return pa.Array.from_buffers(dtype, length, [None, pa.py_buffer(np.ascontiguousarray(values))])


def map_split(path: Path, info: DatasetInfo) -> Split:
    """The split in the files that `write_split` wrote, without a copy.

    Its arrays are the file's own pages, which all processes of a machine share. They are writable, as torch wants it: a
    process that writes gets a private copy of the page, and the file does not change.

    Raise one of BROKEN if they are not such files.
    """
    with Path(f"{path}{ROWS}").open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    batch = pa.ipc.open_file(pa.py_buffer(pages)).get_batch(0)
    labels = batch.column("label") if "label" in batch.schema.names else None
    names, times, masks = batch.schema.names, Path(f"{path}{TIMES}"), Path(f"{path}{MASKS}")
    x_ND = np.asarray(np.lib.format.open_memmap(f"{path}{FEATURES}", "c"))
    split = Split(
        x_ND=x_ND,
        is_anomaly_N=_mapped(pages, batch.column("anomaly"), np.bool_),
        row_N=_mapped(pages, batch.column("row"), np.int64),
        label_code_N=None if labels is None else _mapped(pages, labels.indices, np.int32),
        labels=() if labels is None else tuple(labels.dictionary.to_pylist()),
        factors=tuple(_mapped_factor(pages, name, batch.column(name)) for name in names if name.startswith(FACTOR)),
        file_N=batch.column("file") if "file" in names else None,
        start_N=_mapped(pages, batch.column("start"), np.int64) if "start" in names else None,
        length_N=_mapped(pages, batch.column("length"), np.int64) if "length" in names else None,
        is_anomaly_R=np.load(f"{path}{POINTS}") if "start" in names else None,
        is_anomaly_NP=np.asarray(np.lib.format.open_memmap(masks, "c")) if masks.exists() else None,
        rows_R=pa.ipc.open_file(pa.memory_map(str(times))).read_all() if times.exists() else None,
    )
    return split.with_features(x_ND, info)


def _mapped_factor(pages: mmap.mmap, name: str, column: pa.Array) -> Factor:
    values = tuple(column.dictionary.to_pylist())
    return Factor(name=name.removeprefix(FACTOR), code_N=_mapped(pages, column.indices, np.int32), values=values)


def _mapped(pages: mmap.mmap, column: pa.Array, dtype: type[Number]) -> NDArray[Number]:
    """A column as an array over the pages; Arrow's own arrays are read-only, but it tells the offset."""
    offset = column.buffers()[1].address - pa.py_buffer(pages).address
    return np.frombuffer(pages, dtype, len(column), offset)
