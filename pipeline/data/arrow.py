"""A split as an Arrow file of one record batch, which is mapped into memory and read without a copy."""

import mmap
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.dataset import Split

Number = TypeVar("Number", bound=np.generic)
# More than 2**31 values may be in one batch.
OPTIONS = pa.ipc.IpcWriteOptions(allow_64bit=True)


def write_split(path: Path, split: Split) -> None:
    """Write the columns x (a list of D float32 a row), anomaly, row and, if there are labels, label."""
    rows, features = split.x_ND.shape
    columns = {
        "x": pa.FixedSizeListArray.from_arrays(_column(split.x_ND, pa.float32(), rows * features), features),
        "anomaly": _column(split.is_anomaly_N, pa.uint8(), rows),
        "row": _column(split.row_N, pa.int64(), rows),
    }
    if split.label_code_N is not None:
        codes = _column(split.label_code_N, pa.int32(), rows)
        columns["label"] = pa.DictionaryArray.from_arrays(codes, pa.array(split.labels, pa.string()))
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema, options=OPTIONS) as writer:
        writer.write_batch(batch)


def _column(values: NDArray[np.generic], kind: pa.DataType, length: int) -> pa.Array:
    return pa.Array.from_buffers(kind, length, [None, pa.py_buffer(np.ascontiguousarray(values))])


def map_split(path: Path) -> Split:
    """The split in a file that `write_split` wrote.

    Its arrays are the file's own pages, which all processes of a machine share. They may be written to, as torch wants
    it: whoever writes gets a page of his own, and the file stays as it is.

    Raises:
        pyarrow.ArrowInvalid, KeyError, OSError, ValueError: It is no such file.
    """
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    batch = pa.ipc.open_file(pa.py_buffer(pages)).get_batch(0)
    x, labels = batch.column("x"), None
    x_ND = _mapped(pages, x.flatten(), np.float32).reshape(len(x), x.type.list_size)
    if "label" in batch.schema.names:
        labels = batch.column("label")
    return Split(
        x_ND=x_ND,
        is_anomaly_N=_mapped(pages, batch.column("anomaly"), np.bool_),
        row_N=_mapped(pages, batch.column("row"), np.int64),
        label_code_N=None if labels is None else _mapped(pages, labels.indices, np.int32),
        labels=() if labels is None else tuple(labels.dictionary.to_pylist()),
    )


def _mapped(pages: mmap.mmap, column: pa.Array, dtype: type[Number]) -> NDArray[Number]:
    """A column as an array over the pages: Arrow knows where it lies, but gives arrays that cannot be written to."""
    offset = column.buffers()[1].address - pa.py_buffer(pages).address
    return np.frombuffer(pages, dtype, len(column), offset)
