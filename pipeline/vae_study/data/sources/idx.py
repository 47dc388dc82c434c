"""The idx files of MNIST: images or rows, and their labels."""

import gzip
import math
import re
import struct
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_study.config.data import DataConfig
from vae_study.data.sources.arrays import table_of_arrays
from vae_study.data.sources.files import local_path, reading, require_growth
from vae_study.data.sources.source import FILE, Examples, ModelInput, Source, examples_of
from vae_study.errors import UserError

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_BYTES_AT_ONCE = 1 << 20
_MOST_DIMENSIONS = 4
_ByteStream = BufferedReader | gzip.GzipFile


def open_idx(config: DataConfig, model: ModelInput | None) -> Examples:
    """Images (idx3) or rows (idx2), and their labels (idx1).

    The labels are in `config.label`, or in the file that MNIST's naming implies, if it exists.
    """
    given = str(config.path)
    path = local_path(given)
    x = _read_idx(path, given)
    if x.ndim < 2:
        raise UserError(f"{given}: got idx{x.ndim}, expected images (idx3) or rows (idx2); are these the labels?")
    labels = (config.label or _implied_labels(given, path)) if model is None else None
    label_N = None if labels is None else _labels(labels, len(x), given)
    names = ("images", "labels")
    return examples_of(table_of_arrays(x, label_N, where=given, names=names, config=config, model=model))


def _labels(given: str, count: int, images: str) -> NDArray[Any]:
    label_N = _read_idx(local_path(given, key="data.label"), given)
    if label_N.ndim != 1:
        raise UserError(f"{given}: got idx{label_N.ndim}, expected labels (idx1)")
    if len(label_N) != count:
        raise UserError(f"{given}: {len(label_N):,} labels, expected {count:,}, one for each row of {images}")
    return label_N


def _implied_labels(given: str, path: Path) -> str | None:
    """The file of labels beside a file of images, gzipped or not; None if there is none."""
    name = re.sub(r"images([-.])idx\d", r"labels\1idx1", path.name)
    plain = name.removesuffix(".gz")
    candidates = [] if name == path.name else [plain, f"{plain}.gz"]
    found = next((path.with_name(candidate) for candidate in candidates if path.with_name(candidate).is_file()), None)
    return None if found is None else str(Path(given).with_name(found.name))


def _read_idx(path: Path, where: str) -> NDArray[Any]:
    with reading(where, "idx"), path.open("rb") as raw:
        is_gzip = raw.read(2) == _GZIP
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        dtype, shape = _idx_header(stream, where)
        expected = math.prod(shape) * dtype.itemsize
        if is_gzip:
            require_growth(where, expected, path.stat().st_size)
        # One byte more than expected: finds what follows, and makes gzip compare its checksum.
        body, damage = _up_to(stream, expected + 1)
    if len(body) != expected:
        found = f"{len(body):,}" if len(body) < expected else f"more than {expected:,}"
        raise UserError(f"{where}: {found} bytes of values, expected {expected:,} for shape {shape}; is it truncated?")
    if damage is not None:
        raise UserError(f"{where}: {expected:,} bytes of values as expected, but gzip finds it damaged ({damage})")
    return np.frombuffer(body, dtype).reshape(shape)


def _idx_header(stream: _ByteStream, where: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic, _ = _up_to(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise UserError(f"{where}: begins with {magic.hex(' ') or 'nothing'}, expected the two zero bytes of idx")
    code, dimensions = magic[2], magic[3]
    if code not in _IDX_TYPES:
        known = ", ".join(f"{code:#04x}" for code in _IDX_TYPES)
        raise UserError(f"{where}: type code {code:#04x}, expected one of {known}")
    sizes, _ = _up_to(stream, 4 * dimensions)
    if not 0 < dimensions <= _MOST_DIMENSIONS or len(sizes) < 4 * dimensions:
        raise UserError(f"{where}: {dimensions} dimensions in {len(sizes)} bytes, expected 1 to 4 of 4 bytes each")
    return np.dtype(_IDX_TYPES[code]), struct.unpack(f">{dimensions}I", sizes)


def _up_to(stream: _ByteStream, count: int) -> tuple[bytes, Exception | None]:
    """At most this many bytes, and the error that ended them; read in parts, so that a wrong header needs no memory."""
    pieces: list[bytes] = []
    found = 0
    try:
        # Unlike read, read1 gives what there is before it raises.
        while found < count and (piece := stream.read1(min(_BYTES_AT_ONCE, count - found))):
            pieces.append(piece)
            found += len(piece)
    except (EOFError, OSError, zlib.error) as error:
        return b"".join(pieces), error
    return b"".join(pieces), None


SOURCES = (
    Source(
        name="idx",
        open=open_idx,
        settings=("label",),
        paths=(FILE,),
        files=r".*(\.idx|idx[1-4][-.]ubyte)(\.gz)?",
        label_is_file=True,
    ),
)
