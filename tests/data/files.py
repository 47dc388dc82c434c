"""Small files of every kind that a source reads, and reading them back."""

import gzip
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import csv
from vae_study.config.data import DataConfig
from vae_study.data.sources import read_table
from vae_study.data.table import Table
from vae_study.errors import UserError

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def read(source: str, path: Path | None = None, **config) -> Table:
    """What a source reads."""
    return read_table(DataConfig(source=source, path=None if path is None else str(path), **config))


def refusal(source: str, path: Path | None = None, **config) -> str:
    """What a source says to the user in place of reading."""
    with pytest.raises(UserError) as caught:
        read(source, path, **config)
    return str(caught.value)


def write_frame(kind: str, frame: pd.DataFrame, folder: Path) -> tuple[str, Path | None]:
    """A frame as a file, a folder of files or a function's result: the source and the path to read it from."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    match kind:
        case "parquet":
            pq.write_table(table, folder / "t.parquet", row_group_size=7)
            return "parquet", folder / "t.parquet"
        case "folder":
            for number, start in enumerate(range(0, len(frame), 5)):
                (folder / "parts").mkdir(exist_ok=True)
                pq.write_table(table.slice(start, 5), folder / "parts" / f"part-{number:03}.parquet")
            return "parquet", folder / "parts"
        case "csv":
            csv.write_csv(table, folder / "t.csv")
            return "csv", folder / "t.csv"
        case "csv.gz":
            csv.write_csv(table, pa.output_stream(folder / "t.csv.gz", compression="gzip"))
            return "csv", folder / "t.csv.gz"
    return function(lambda: frame), None


def function(made: Callable[[], object], name: str = "made") -> str:
    """A source of a module that holds one function."""
    module = ModuleType("tests_made_module")
    made.__name__ = name
    setattr(module, name, made)
    sys.modules[module.__name__] = module
    return f"python:{module.__name__}:{name}"


def idx_bytes(values: np.ndarray) -> bytes:
    """An array in MNIST's format."""
    kind = values.dtype.newbyteorder(">")
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, IDX_CODES[kind.str[1:]], values.ndim, *values.shape)
    return header + values.astype(kind).tobytes()


def write_idx(path: Path, values: np.ndarray) -> Path:
    """An array in MNIST's format, gzipped where the name says so."""
    data = idx_bytes(values)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_images(folder: Path, images: Mapping[str, np.ndarray]) -> Path:
    """Images by their paths within the folder."""
    for name, pixels in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def words(table: Table, name: str) -> list[str | None]:
    """A categorical feature, row by row."""
    place = table.category_names.index(name)
    values = table.categories[place]
    return [None if code < 0 else values[code] for code in table.code_NC[:, place]]


def labels(table: Table) -> list[object]:
    """The labels, row by row."""
    return [table.labels[place] for place in table.label_N]
