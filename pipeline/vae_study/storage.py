"""Folders of small files on a local disk, NFS or an object store, with atomic writes."""

import errno
import getpass
import json
import os
import posixpath
import re
import shlex
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from vae_study.errors import LONGEST_REASON, UserError, holds_secret

# One letter before a colon is a Windows drive. s3:/bucket is a typing error, not a folder named s3:.
SCHEME = re.compile(r"[A-Za-z][\w+.-]+:/")
UNFINISHED = ".unfinished-"
#: Optuna's default database, in the study's folder.
STUDY_DATABASE = "study.db"
#: The folder of all studies, HOME, unless the user names another.
DEFAULT_HOME = "studies"
SECONDS_FOR_GOOGLE = 10
#: The environment variable that names the folder of prepared data.
CACHE_VARIABLE = "VAE_STUDY_CACHE"


def words_of(study: str, home: str | Path = DEFAULT_HOME) -> str:
    """The words of a command that mean a study: its name, with HOME unless that is the default one."""
    text = str(home)
    place = text if SCHEME.match(text) else os.path.abspath(os.path.expanduser(text))
    return study if place == os.path.abspath(DEFAULT_HOME) else f"{study} --home {shlex.quote(place)}"


@dataclass(frozen=True)
class Folder:
    """A folder of files. It need not exist: the first write creates it.

    A file that cannot be read or written raises an OSError that names it. Names that begin with a dot are reserved.
    A written file is there whole or not at all.

    Attributes:
        place: An absolute path or a URI, which `at` accepts, also on another machine.
    """

    place: str
    system: Any = field(repr=False, compare=False)
    path: str = field(repr=False, compare=False)

    @classmethod
    def at(cls, place: str | Path) -> "Folder":
        """The folder at a path, or at a URI that pyarrow knows, such as s3://bucket/prefix.

        Raises:
            UserError: The URI is of no kind that pyarrow knows, or holds a password.
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
        """Its path if it is on a local file system (NFS included), else None."""
        return Path(self.path) if isinstance(self.system, LocalFileSystem) else None

    @property
    def scratch(self) -> Path:
        """The folder on a local disk for its temporary files: itself, or for an object store a folder in ./studies."""
        return self.local or Path(DEFAULT_HOME).resolve() / posixpath.basename(self.path)

    def names(self) -> list[str]:
        """The names of its files, sorted; empty if the folder does not exist."""
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
        """Write or replace a file. A reader at any time, also after a crash, finds the old content or the new."""
        with _naming("write", self._place_of(name)), self._writer(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a file; no error if there is none."""
        with _naming("remove", self._place_of(name)), suppress(FileNotFoundError):
            self.system.delete_file(self._path_of(name))

    def clear(self) -> None:
        """Remove the folder and its content; no error if there is none."""
        with _naming("remove", self.place), suppress(FileNotFoundError):
            self.system.delete_dir(self.path)

    def sweep(self) -> None:
        """Remove the unfinished files of writers that died. Call it only if no other process writes to this folder."""
        with _naming("remove", self.place):
            for leftover in self.local.glob(f"{UNFINISHED}*") if self.local else ():
                leftover.unlink(missing_ok=True)

    def require_writable(self) -> None:
        """Write and remove a test file.

        Raises:
            UserError: The folder is not writable.
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
        # By default pyarrow decompresses files by their suffix.
        return self.system.open_input_stream(self._path_of(name), compression=None)

    def _writer(self, name: str) -> Any:
        # An object store shows an object once all of it is there.
        path = self._path_of(name)
        return _whole(Path(path)) if self.local else self.system.open_output_stream(path, compression=None)


def _opened(uri: str) -> tuple[Any, str]:
    if holds_secret(uri):
        scheme = uri.split(":")[0]
        raise UserError(
            f"{scheme}://...: got an address with a password in it; expected it without: "
            "passwords belong in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        system, path = FileSystem.from_uri(with_patience(uri))
    except (pa.ArrowException, OSError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{uri}: {reason}; expected a path, or a URI such as s3://bucket/prefix") from None
    if not path:
        raise UserError(f"{uri}: no bucket is named; expected a URI such as s3://bucket/prefix")
    return system, path


def with_patience(uri: str) -> str:
    """A URI with a bound on how long Google's storage is asked again, which would be 15 minutes."""
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={SECONDS_FOR_GOOGLE}"


#: The file of a study's folder that says whose it is.
OWNER_FILE = "owner.json"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whose a study is, as its folder, its Optuna study, its parent run and its registered model say alike.

    A name alone proves nothing: on a shared server, others have studies and models of the same name.

    Attributes:
        study_id: Drawn once, when the study is begun.
        made_by: Who began it, where and when, for messages.
    """

    study_id: str
    made_by: str


def owner_of(folder: Folder) -> Owner | None:
    """The owner of the study in a folder; None if no study has begun there."""
    return _owner_in(folder) if OWNER_FILE in folder.names() else None


def _owner_in(folder: Folder) -> Owner:
    try:
        return Owner(**json.loads(folder.read(OWNER_FILE)))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{folder / OWNER_FILE}: is damaged: {str(error)[:LONGEST_REASON]}; expected the study's id, which its run "
            "in MLflow has as the tag vae_study.study_id"
        ) from None


def claim(folder: Folder) -> Owner:
    """The owner of the study in a folder. If none is written there, a new one is; all callers get the same."""
    if (known := owner_of(folder)) is not None:
        return known
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # In a container, a user may have no name.
        user = "somebody"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    owner = Owner(study_id=uuid.uuid4().hex, made_by=f"{user} on {socket.gethostname()}, in {folder.place}, {when}")
    content = json.dumps(asdict(owner)).encode()
    if folder.local is None:
        folder.write(OWNER_FILE, content)
    else:
        mine = f"{UNFINISHED}{owner.study_id}"
        folder.write(mine, content)
        # Unlike a rename, a link does not replace what another driver has written meanwhile.
        with suppress(FileExistsError):
            os.link(folder.local / mine, folder.local / OWNER_FILE)
        folder.remove(mine)
    return _owner_in(folder)


def private_folder(root: str | None = None) -> Path:
    """The path of the user's own folder for temporary files; by default among those of all users."""
    return Path(root or tempfile.gettempdir()).absolute() / f"vae-study-{os.getuid()}"


def make_private(folder: Path) -> None:
    """Make such a folder, which other users of this machine cannot enter.

    Raise OSError if it cannot be made, or if another user owns it: anybody may create folders among temporary files.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, f"{folder} belongs to another user")
    folder.chmod(0o700)


def cache_folder() -> Path:
    """The folder of the node's prepared data: VAE_STUDY_CACHE, or one of the user's own among temporary files."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).absolute() if given else private_folder() / "data"


@contextmanager
def writing_to_cache() -> Iterator[Path]:
    """Make the folder of prepared data and give it; an OSError within, such as of a full disk, becomes a UserError."""
    folder = cache_folder()
    try:
        if private_folder() in folder.parents:
            make_private(private_folder())
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        reason = f"{folder}: cannot keep prepared data here: {error.strerror or error}"
        raise UserError(f"{reason}; {CACHE_VARIABLE} names another folder") from None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for this local folder; no file is made for it."""
    descriptor = None
    with suppress(OSError, ImportError):
        # Windows has none, and some network file systems neither.
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _naming(doing: str, place: str) -> Iterator[None]:
    """Add the path to every OSError; that of a full disk has none."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, f"cannot {doing}: {reason}", place) from error


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to `path` once it is synced to disk, and removed on an error."""
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
    """Sync a folder, so that a crash of the machine does not undo a rename."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
