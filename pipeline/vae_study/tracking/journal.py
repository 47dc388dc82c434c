"""The journal of a study: an append-only file of JSON lines, from which an uploader sends events to MLflow.

It is on a local disk of the driver. Each trial also has a log in its own folder, which outlasts the journal.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vae_study.errors import UserError
from vae_study.storage import Folder

logger = logging.getLogger(__name__)

Plain = Mapping[str, Any]
JOURNAL_FILE, LOCK_FILE, MARKER_SUFFIX = "journal.jsonl", "journal.lock", ".offset"
TRIAL_LOG_FILE = "run.json"
#: The fields of events that are local paths.
PATHS = ("file", "files", "folder")
BYTES_PER_READ = 2**20


class Journal:
    """JSON objects in the order in which they were appended; each is in the file before `append` returns.

    Paths within its folder are written without it, so that the folder can be moved.

    Attributes:
        end: The size of the complete lines, bytes.
    """

    def __init__(self, path: Path):
        """Open or create the journal at `path`. What a crash left after the last complete line is cut off."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._lock = threading.Lock()
        self.end = _complete_bytes(path)
        os.truncate(path, self.end)

    def append(self, plain: Plain, is_durable: bool = False) -> int:
        """Add a line.

        Args:
            plain: JSON values; numbers that are not finite are kept. Half a surrogate pair becomes a question mark,
                since no later reader could encode it.
            is_durable: Whether the line must also survive a crash of the machine, which costs some milliseconds.

        Returns:
            The offset of the line, bytes.

        Raises:
            OSError: The disk is full; the journal is unchanged.
        """
        line = encoded(_with_paths(plain, self._inside)) + b"\n"
        with self._lock, self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(28, "No space left on device", str(self.path))
                if is_durable:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
            # Readers see the line only now, since until here it may be removed again.
            self.end = size + len(line)
            return size

    def read(self, offset: int = 0, lines: int | None = None) -> Iterator[tuple[int, Plain]]:
        """The objects from a byte offset on, at most `lines` of them, each with the offset of the next one."""
        with self.path.open("rb") as file:
            file.seek(offset)
            while offset < self.end and (lines is None or lines > 0):
                line = file.readline()
                offset += len(line)
                lines = None if lines is None else lines - 1
                yield offset, self._object(line)

    def at(self, offsets: Iterable[int]) -> list[Plain]:
        """The objects that begin at these offsets."""
        found = []
        with self.path.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                found.append(self._object(file.readline()))
        return found

    def _object(self, line: bytes) -> Plain:
        return _with_paths(json.loads(line), lambda path: str(self.path.parent / path))

    def _inside(self, path: str) -> str:
        """A path within the journal's folder without that folder, which may be moved."""
        one = Path(path)
        return str(one.relative_to(self.path.parent)) if one.is_relative_to(self.path.parent) else path

    def sync(self) -> None:
        """Make all lines survive a crash of the machine."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


def _with_paths(plain: Plain, change: Callable[[str], str]) -> Plain:
    """An event with its local paths changed."""
    local = {name: plain[name] for name in PATHS if name in plain}
    return {
        **plain,
        **{name: change(at) if isinstance(at, str) else [change(one) for one in at] for name, at in local.items()},
    }


class TrialLogs:
    """The events of each run from its start to its end, in HOME/STUDY/trials/trial-0007/run.json.

    A log is written before MLflow or the study store get the run's end, so it has everything that either of them has.
    In an object store it costs one request of some tens of milliseconds per run; one per epoch would be too many.
    """

    def __init__(self, folder: Folder | None, about: Mapping[str, str | None], journal: Journal):
        """Start without open runs.

        Args:
            folder: Has a folder for each run; None writes no logs.
            about: The fingerprints of the study's config and data, by tag.
            journal: Has the events.
        """
        self._folder, self._about, self._journal = folder, dict(about), journal
        # Offsets in the journal.
        self._open: dict[str, list[int]] = {}

    def note(self, plain: Plain, offset: int) -> None:
        """Remember the offset at which the journal has an event of an open run."""
        if self._folder is None or not plain["run"]:
            return
        if plain["op"] == "end":
            self._open.pop(plain["run"], None)
        else:
            self._open.setdefault(plain["run"], []).append(offset)

    def write(self, end: Plain) -> None:
        """Write the log of a run, given its end; if that fails, the journal alone has the run's events."""
        if self._folder is None:
            return
        key = end["run"]
        try:
            events = [*self._journal.at(self._open.get(key, ())), end]
            (self._folder / key).write(TRIAL_LOG_FILE, encoded({**self._about, "records": events}))
        except (OSError, ValueError) as error:
            logger.warning("the log of %s is on this machine's disk only: %s", key, error)

    def find(self, key: str, parameters: Mapping[str, str]) -> list[Plain]:
        """The events of a run that has ended; none if there is no log, or it is of another study of that name.

        Args:
            key: The run.
            parameters: The run's own, as `RunStarted` has them, to compare with.

        Raises:
            OSError: The log cannot be read.
        """
        if self._folder is None:
            return []
        try:
            found = json.loads((self._folder / key).read(TRIAL_LOG_FILE))
        except FileNotFoundError:
            return []
        events: list[Plain] = found.pop("records")
        return events if found == self._about and events[0].get("parameters") == parameters else []


def locked(folder: Path) -> FileLock:
    """The lock for writing and uploading a study's journal, until it is released or the process ends.

    Raises:
        UserError: Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Another thread may release it.
    lock = FileLock(folder / LOCK_FILE, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder} is in use: another process runs this study and uploads its records to MLflow"
        ) from None
    return lock


class Marker:
    """The position up to which a journal has been uploaded to one parent run; 0 for any other run.

    Without a run's id, whatever run it is.
    """

    def __init__(self, journal: Path, run_id: str | None = None):
        self.path, self.run_id = journal.with_suffix(MARKER_SUFFIX), run_id

    def read(self) -> int:
        """The offset in bytes."""
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
            return int(saved["offset"]) if self.run_id in (None, saved["run_id"]) else 0
        except (OSError, ValueError, KeyError):
            return 0

    def forget(self) -> None:
        """Begin again at 0."""
        self.path.unlink(missing_ok=True)

    def write(self, offset: int) -> None:
        """Replace the offset atomically."""
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"run_id": self.run_id, "offset": offset}), encoding="utf-8")
        os.replace(unfinished, self.path)


def pending_records(folder: Path) -> int:
    """How many lines of the journal in a study's folder are not in MLflow yet; nothing is changed."""
    journal = folder / JOURNAL_FILE
    return count_lines(journal, Marker(journal).read(), journal.stat().st_size) if journal.exists() else 0


def count_lines(path: Path, first: int, last: int) -> int:
    """How many lines end between two offsets, bytes."""
    count = 0
    with path.open("rb") as file:
        file.seek(first)
        while first < last and (chunk := file.read(min(BYTES_PER_READ, last - first))):
            first, count = first + len(chunk), count + chunk.count(b"\n")
    return count


def encoded(plain: Plain) -> bytes:
    """JSON as UTF-8; half a surrogate pair becomes a question mark."""
    return json.dumps(plain, ensure_ascii=False).encode(errors="replace")


def _complete_bytes(path: Path) -> int:
    """Bytes before the first incomplete line: one without an end, or with zeros that a crash of the machine left."""
    size = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or b"\0" in line:
                break
            size += len(line)
    return size
