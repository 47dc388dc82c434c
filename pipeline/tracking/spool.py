"""What is on its way to MLflow: an append-only file of JSON lines, which outlives a crash and a dead server."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


class Spool:
    """Records in the order in which they happened; each is on disk before `append` returns."""

    def __init__(self, path: Path):
        """Open the spool at `path`, or make it; a last line that a crash tore apart is cut off."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._lock = threading.Lock()
        os.truncate(path, _whole(path))

    def append(self, record: Record, is_durable: bool = False) -> None:
        """Add a record.

        Args:
            record: JSON values; numbers that are not finite are kept.
            is_durable: Whether it also has to survive the machine's own crash, which costs some milliseconds.

        Raises:
            OSError: The disk is full; the spool is as it was.
        """
        line = json.dumps(record).encode() + b"\n"
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

    def read(self, offset: int = 0, records: int | None = None) -> Iterator[tuple[int, Record]]:
        """The records from a byte offset on, each with the offset behind it; `records` of them at the most."""
        with self.path.open("rb") as file:
            file.seek(offset)
            while records is None or records > 0:
                line = file.readline()
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                records = None if records is None else records - 1
                yield offset, json.loads(line)

    @property
    def end(self) -> int:
        """The offset behind the last record, bytes."""
        return self.path.stat().st_size


def _whole(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))
