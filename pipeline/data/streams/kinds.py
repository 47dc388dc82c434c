"""What kind of source a place is."""

import re
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from pipeline.data.sources.files import located
from pipeline.data.sources.function import PREFIX
from pipeline.data.sources.images import SUFFIXES as IMAGE_SUFFIXES
from pipeline.errors import UserError
from pipeline.spec.data import BUNDLED_SOURCES, FILE_SOURCES

_PARQUET_SUFFIXES = (".parquet", ".pq")
_CSV = re.compile(r".*\.csv(\.(gz|bz2|zst))?")
_IDX = re.compile(r".*(\.idx|idx[1-4][-.]ubyte)(\.gz)?")
_KEY = "DATA"


def kind_of(place: str, source: str | None) -> str:
    """A kind of file, the name of a bundled data set, or `python`.

    Args:
        place: A path, a URI, the name of a bundled data set, or `python:package.module:function`.
        source: The kind of file, where the user says it.

    Raises:
        UserError: There is nothing at the place, or its kind is unknown.
    """
    if source is not None and source not in FILE_SOURCES and source != place:
        raise _unknown(f"came the source {source!r}")
    if source is None or source == place:
        if place in BUNDLED_SOURCES:
            return place
        if place.startswith(PREFIX):
            return "python"
    system, info = located(place, _KEY)
    kind = source or _by_name(PurePosixPath(info.path).name.lower()) or _by_content(system, info)
    if kind is None:
        raise _unknown(f"came {place!r}, whose kind its name does not tell")
    _require_fitting(place, kind, info)
    return kind


def _unknown(came: str) -> UserError:
    kinds = ", ".join((*FILE_SOURCES, *BUNDLED_SOURCES, "python:package.module:function"))
    return UserError(f"{_KEY}: {came}; expected, or as --source, one of {kinds}")


def _by_name(name: str) -> str | None:
    if name.endswith(_PARQUET_SUFFIXES):
        return "parquet"
    if name.endswith(".npz"):
        return "npz"
    return "csv" if _CSV.fullmatch(name) else "idx" if _IDX.fullmatch(name) else None


def _by_content(system: Any, info: Any) -> str | None:
    """The kind of a folder, by the names in it."""
    if info.type != fs.FileType.Directory:
        return None
    found = system.get_file_info(fs.FileSelector(info.path, recursive=True))
    names = [each.base_name.lower() for each in found if each.type == fs.FileType.File]
    if any(name.endswith(_PARQUET_SUFFIXES) for name in names):
        return "parquet"
    return "images" if any(name.endswith(IMAGE_SUFFIXES) for name in names) else None


def _require_fitting(place: str, kind: str, info: Any) -> None:
    is_folder = info.type == fs.FileType.Directory
    if (kind == "images" and not is_folder) or (kind in ("csv", "npz", "idx") and is_folder):
        came, expected = ("a folder", "a file") if is_folder else ("a file", "a folder")
        raise UserError(f"{_KEY}: came {place!r}, which is {came}; expected {expected} for source {kind}")
    if kind not in ("parquet", "csv") and "://" in place:
        raise UserError(f"{_KEY}: came {place!r}; expected a place on this machine for source {kind}")
