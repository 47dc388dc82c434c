"""What is on its way to MLflow: an append-only file of JSON lines, which outlives a crash and a dead server."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


class Spool:
    """Records in the order in which they happened; each is in the file before `append` returns.

    Attributes:
        end: The offset behind the last record, bytes.
    """

    def __init__(self, path: Path):
        """Open the spool at `path`, or make it; what a crash tore apart is cut off."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._lock = threading.Lock()
        self.end = _whole(path)
        os.truncate(path, self.end)

    def append(self, record: Record, is_durable: bool = False) -> None:
        """Add a record.

        Args:
            record: JSON values; numbers that are not finite are kept. Half a surrogate pair becomes a question mark,
                since nothing that comes after the spool could encode it.
            is_durable: Whether it also has to survive the machine's own crash, which costs some milliseconds.

        Raises:
            OSError: The disk is full; the spool is as it was.
        """
        line = encoded(record) + b"\n"
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
            # Only now may it be read: what is taken back was never there.
            self.end = size + len(line)

    def read(self, offset: int = 0, records: int | None = None) -> Iterator[tuple[int, Record]]:
        """The records from a byte offset on, each with the offset behind it; `records` of them at the most."""
        with self.path.open("rb") as file:
            file.seek(offset)
            while offset < self.end and (records is None or records > 0):
                line = file.readline()
                offset += len(line)
                records = None if records is None else records - 1
                yield offset, json.loads(line)

    def sync(self) -> None:
        """Have all that is in it survive the machine's own crash."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


def encoded(record: Record) -> bytes:
    """A record as text; half a surrogate pair becomes a question mark."""
    return json.dumps(record, ensure_ascii=False).encode(errors="replace")


def _whole(path: Path) -> int:
    """Bytes up to the first line that is not whole: it has no end, or zeros where a crash of the machine left a gap."""
    size = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or b"\0" in line:
                break
            size += len(line)
    return size
