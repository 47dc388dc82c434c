"""Find files on this machine or behind s3://, and say what is wrong with them: which column, how many values, where."""

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from vae_study.config.base import nearest
from vae_study.errors import UserError, holds_secret
from vae_study.storage import with_patience

# A message lists no more names, and no more rows, than these.
NAMES_SHOWN, ROWS_SHOWN = 20, 3
# A compressed file that becomes this many times larger, and has more than these bytes then, is there to fill a memory:
# measurements do not repeat themselves so often.
_MOST_GROWTH, _SMALL_BYTES = 500, 2**27
# What Arrow and Python's own readers raise on damaged bytes.
DAMAGE = (pa.ArrowException, OSError, ValueError, EOFError)


def located(given: str, key: str = "data.path") -> tuple[Any, Any]:
    """The pyarrow file system of a path, and the pyarrow FileInfo of the existing file or folder.

    Raise UserError if there is none, or if the storage does not answer.

    Args:
        given: A path on this machine, or a URI such as s3://bucket/key.
        key: The setting that it came from.
    """
    if holds_secret(given):
        raise UserError(
            f"{key}: got an address with a password in it; expected it without, as AWS_... variables have it"
        )
    try:
        system, path = _file_system(given)
        info = system.get_file_info(path)
        missing = _missing(system, path, f"{key}: got {given!r}") if info.type == fs.FileType.NotFound else None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{key}: got {given!r}, which cannot be reached ({error})") from error
    if missing is not None:
        raise missing
    if info.type == fs.FileType.Unknown:
        raise UserError(f"{key}: got {given!r}, which is neither a file nor a folder")
    return system, info


def located_file(given: str, key: str = "data.path") -> tuple[Any, str]:
    """The pyarrow file system of a file, and its path there; raise UserError if there is no such file."""
    system, info = located(given, key)
    if info.type != fs.FileType.File:
        raise UserError(f"{key}: got {given!r}, which is a folder; expected a file")
    return system, info.path


def local_path(given: str, *, is_folder: bool = False, key: str = "data.path") -> Path:
    """The path of a file, or of a folder, on this machine; raise UserError if there is none."""
    expected = "a folder" if is_folder else "a file"
    if "://" in given:
        raise UserError(f"{key}: got {given!r}, expected {expected} on this machine")
    _, info = located(given, key)
    path = Path(info.path)
    if path.is_dir() != is_folder:
        raise UserError(f"{key}: got {given!r}, which is {'a file' if is_folder else 'a folder'}; expected {expected}")
    return path


def _file_system(given: str) -> tuple[Any, str]:
    if "://" not in given:
        return fs.LocalFileSystem(), Path(os.path.abspath(os.path.expanduser(given))).as_posix()
    system, path = fs.FileSystem.from_uri(with_patience(given))
    return system, path.rstrip("/")


def _missing(system: Any, path: str, got: str) -> UserError:
    """An error that names the first folder of a path that does not exist, and what is beside it."""
    folder, name = posixpath.split(path.rstrip("/"))
    around = system.get_file_info(folder) if name else None
    if around is not None and around.type == fs.FileType.NotFound and folder:
        return _missing(system, folder, got)
    beside = system.get_file_info(fs.FileSelector(folder, allow_not_found=True)) if folder else []
    words = [f"{got}, but there is no {name!r}", *nearest(name, [info.base_name for info in beside])]
    return UserError("; ".join(words))


@contextmanager
def reading(where: str, kind: str, damage: tuple[type[Exception], ...] = DAMAGE) -> Iterator[None]:
    """Turn what a reader raises on a damaged file into a UserError that names the file.

    Args:
        where: The file, as the user gave it.
        kind: What it was read as, such as "Parquet".
        damage: The exceptions that mean damage.
    """
    try:
        yield
    except UserError:
        raise
    except damage as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{where}: cannot be read as {kind}: {lines[0]}") from error


def require_growth(where: str, count: int, stored: int) -> None:
    """Raise UserError if this many bytes came, or are to come, from a file that is much too small for them.

    Args:
        where: The file, as the user gave it.
        count: The bytes without compression.
        stored: The bytes that they are stored as.
    """
    if count > max(_SMALL_BYTES, _MOST_GROWTH * stored):
        raise UserError(
            f"{where}: its {stored:,} bytes become more than {_MOST_GROWTH} times as many when they are decompressed; "
            "expected measurements, or the file without compression"
        )


def require_memory(where: str, count: int) -> None:
    """Raise UserError if this machine does not have memory for so many bytes of values, before it is asked for."""
    there = psutil.virtual_memory().total
    if count > there:
        found = f"its values take {count / 2**30:,.1f} GiB; this machine has {there / 2**30:,.1f} GiB"
        raise UserError(f"{where}: {found} of memory")


def of_values(count: int, total: int, what: str) -> str:
    """A share of values in words: "3 of 5,000 values are missing"."""
    return f"{count:,} of {total:,} values {'is' if count == 1 else 'are'} {what}"


def column_error(where: str, column: str, what: str) -> UserError:
    """An error that names file and column first."""
    return UserError(f"{where}: column {column!r}: {what}")


def rows_error(where: str, column: str, first: int, is_bad_N: NDArray[np.bool_], got: str, expected: str) -> UserError:
    """An error that names the first bad rows, counted from 1.

    Args:
        where: The file.
        column: The column.
        first: The index in the file of the first of N rows, from 0.
        is_bad_N: Which of them are bad.
        got: What stands there.
        expected: What was expected.
    """
    rows_N = np.flatnonzero(is_bad_N) + first + 1
    shown = ", ".join(f"{row:,}" for row in rows_N[:ROWS_SHOWN]) + ", ..." * (len(rows_N) > ROWS_SHOWN)
    return column_error(where, column, f"{got} in row{'s' * (len(rows_N) > 1)} {shown}; {expected}")


def no_such(where: str, what: str, name: str, valid: Sequence[str]) -> UserError:
    """An error for a name that does not exist, with those that do and the nearest of them.

    Args:
        where: The file.
        what: What the name was to be, such as "column".
        name: The name that was given.
        valid: The names that exist.
    """
    more = f" and {len(valid) - NAMES_SHOWN} more" if len(valid) > NAMES_SHOWN else ""
    expected = f"expected one of {', '.join(valid[:NAMES_SHOWN])}{more}" if valid else "there is none at all"
    return UserError("; ".join([f"{where}: no {what} {name!r}", expected, *nearest(name, valid)]))


def require_finite(
    where: str, names: Sequence[str], count: int, infinite_D: NDArray[np.int64], too_large_D: NDArray[np.int64]
) -> None:
    """Raise UserError if a feature has an infinite value.

    Args:
        where: The file.
        names: What to call each feature, such as "column 'amount'".
        count: The number of rows.
        infinite_D: The number of infinite values of each feature.
        too_large_D: The number of values that are infinite only in float32.
    """
    for name, infinite, too_large in zip(names, infinite_D, too_large_D, strict=True):
        if infinite:
            raise UserError(f"{where}: {name}: {of_values(int(infinite), count, 'infinite')}; expected finite numbers")
        if too_large:
            said = of_values(int(too_large), count, "too large for float32")
            raise UserError(f"{where}: {name}: {said}; expected at most 3.4e38 in size")
