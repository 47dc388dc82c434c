"""Finding files: on this machine, or behind s3://."""

import os
import posixpath
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from pipeline.errors import UserError
from pipeline.secrets import holds_secret
from pipeline.spec.problems import nearest


def located(given: str, key: str = "data.path") -> tuple[Any, Any]:
    """The file system of a path, and what is there.

    Args:
        given: A path on this machine, or a URI such as s3://bucket/key.
        key: The setting that it came from.

    Returns:
        A pyarrow file system and the pyarrow FileInfo of an existing file or folder.

    Raises:
        UserError: There is no such thing, or the storage does not answer.
    """
    if holds_secret(given):
        raise UserError(
            f"{key}: came an address with a password in it; expected it without, as AWS_... variables have it"
        )
    try:
        system, path = _system(given)
        info = system.get_file_info(path)
        missing = _missing(system, path, f"{key}: came {given!r}") if info.type == fs.FileType.NotFound else None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{key}: came {given!r}, which cannot be reached ({error})") from error
    if missing is not None:
        raise missing
    if info.type == fs.FileType.Unknown:
        raise UserError(f"{key}: came {given!r}, which is neither a file nor a folder")
    return system, info


def _system(given: str) -> tuple[Any, str]:
    if "://" not in given:
        return fs.LocalFileSystem(), Path(os.path.abspath(os.path.expanduser(given))).as_posix()
    system, path = fs.FileSystem.from_uri(given)
    return system, path.rstrip("/")


def located_file(given: str, key: str = "data.path") -> tuple[Any, str]:
    """The file system of a file, and its path there.

    Raises:
        UserError: There is no such file, or it is a folder.
    """
    system, info = located(given, key)
    if info.type != fs.FileType.File:
        raise UserError(f"{key}: came {given!r}, which is a folder; expected a file")
    return system, info.path


def local_path(given: str, *, is_folder: bool = False, key: str = "data.path") -> Path:
    """A path on this machine.

    Raises:
        UserError: It is a URI, does not exist, or is a folder where a file was expected or the other way round.
    """
    expected = "a folder" if is_folder else "a file"
    if "://" in given:
        raise UserError(f"{key}: came {given!r}, expected {expected} on this machine")
    _, info = located(given, key)
    path = Path(info.path)
    if path.is_dir() != is_folder:
        raise UserError(f"{key}: came {given!r}, which is {'a file' if is_folder else 'a folder'}; expected {expected}")
    return path


def _missing(system: Any, path: str, came: str) -> UserError:
    folder, name = posixpath.split(path.rstrip("/"))
    around = system.get_file_info(folder) if name else None
    if around is not None and around.type == fs.FileType.NotFound and folder:
        return _missing(system, folder, came)
    beside = system.get_file_info(fs.FileSelector(folder, allow_not_found=True)) if folder else []
    words = [f"{came}, but there is no {name!r}", *nearest(name, [info.base_name for info in beside])]
    return UserError("; ".join(words))
