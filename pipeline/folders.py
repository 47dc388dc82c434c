"""A folder of small files on a local disk, on NFS or in an object store; each file is there whole or not at all."""

import errno
import os
import posixpath
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from pipeline.errors import UserError
from pipeline.secrets import holds_secret

# One letter before a colon would be a drive, not a scheme; s3:/bucket is a slip of the pen, not a folder named s3:.
SCHEME = re.compile(r"[A-Za-z][\w+.-]+:/")
UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Folder:
    """A folder that need not exist yet: writing makes it.

    What cannot be read or written is an OSError that names the file. Names that begin with a dot are the folder's own.

    Attributes:
        place: An absolute path, or a URI; `at` takes it again, on another machine too.
    """

    place: str
    system: Any = field(repr=False, compare=False)
    path: str = field(repr=False, compare=False)

    @classmethod
    def at(cls, place: str | Path) -> "Folder":
        """The folder at a path, or at a URI that pyarrow knows, such as s3://bucket/prefix.

        Raises:
            UserError: There is no such kind of place.
        """
        text = str(place)
        if not SCHEME.match(text):
            path = os.path.abspath(os.path.expanduser(text))
            return cls(path, LocalFileSystem(), path)
        system, path = _opened(text)
        return cls(path if isinstance(system, LocalFileSystem) else text, system, path.rstrip("/"))

    def __str__(self) -> str:
        return self.place

    def __truediv__(self, name: str) -> "Folder":
        return replace(self, place=self._place_of(name), path=self._path_of(name))

    @property
    def local(self) -> Path | None:
        """Its path where it is on a local file system, which NFS counts as."""
        return Path(self.path) if isinstance(self.system, LocalFileSystem) else None

    @property
    def scratch(self) -> Path:
        """Where files that go with it lie on a local disk: in it, or for an object store in ./studies."""
        return self.local or Path("studies").resolve() / posixpath.basename(self.path)

    def names(self) -> list[str]:
        """The files directly in it, sorted; none where there is no such folder."""
        with _naming("list", self.place):
            found = self.system.get_file_info(FileSelector(self.path, allow_not_found=True))
        return sorted(one.base_name for one in found if one.is_file and not one.base_name.startswith("."))

    def read(self, name: str) -> bytes:
        """A file's content."""
        with _naming("read", self._place_of(name)), self._reader(name) as file:
            content: bytes = file.read()
        return content

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a local path."""
        with _naming("read", self._place_of(name)), self._reader(name) as file, _whole(path) as copy:
            shutil.copyfileobj(file, copy, 2**20)

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file, or replace it. Who reads meanwhile, or after a failure, finds the old content or the new."""
        with _naming("write", self._place_of(name)), self._writer(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a file; no error where there is none."""
        with _naming("remove", self._place_of(name)), suppress(FileNotFoundError):
            self.system.delete_file(self._path_of(name))

    def clear(self) -> None:
        """Remove the folder and all in it; no error where there is none."""
        with _naming("remove", self.place), suppress(FileNotFoundError):
            self.system.delete_dir(self.path)

    def sweep(self) -> None:
        """Remove what writers left that died while they wrote; only for who is this folder's one writer."""
        with _naming("remove", self.place):
            for leftover in self.local.glob(f"{UNFINISHED}*") if self.local else ():
                leftover.unlink(missing_ok=True)

    def require_writable(self) -> None:
        """Find out before anything depends on it.

        Raises:
            UserError: Nothing can be written here.
        """
        name = f".{uuid.uuid4().hex}"
        try:
            self.write(name, b"")
            self.remove(name)
        except OSError as error:
            raise UserError(f"{self.place}: {error.strerror}; expected a place that can be written to") from None

    def _path_of(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def _place_of(self, name: str) -> str:
        if self.local:
            return self._path_of(name)
        parts = urlsplit(self.place)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}").geturl()

    def _reader(self, name: str) -> Any:
        # pyarrow would unpack what is named like an archive.
        return self.system.open_input_stream(self._path_of(name), compression=None)

    def _writer(self, name: str) -> Any:
        # An object store shows an object once all of it is there.
        path = self._path_of(name)
        return _whole(Path(path)) if self.local else self.system.open_output_stream(path, compression=None)


def _opened(uri: str) -> tuple[Any, str]:
    if holds_secret(uri):
        scheme = uri.split(":")[0]
        raise UserError(
            f"{scheme}://...: came an address with a password in it; expected it without: "
            "passwords belong in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        system, path = FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{uri}: {reason}; expected a path, or a URI such as s3://bucket/prefix") from None
    if not path:
        raise UserError(f"{uri}: no bucket is named; expected a URI such as s3://bucket/prefix")
    return system, path


@contextmanager
def _naming(doing: str, place: str) -> Iterator[None]:
    """Have errors name the place: a full disk's names none."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, f"cannot {doing}: {reason}", place) from error


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name once it is on the disk, and of which nothing is left if it does not get there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _sync_names(path.parent)


def _sync_names(folder: Path) -> None:
    """Have a crash of the machine not undo a new name, on file systems that let a folder be synchronized."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
