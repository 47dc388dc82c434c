"""What of a study is not in MLflow yet, and who may bring it there."""

import json
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import UserError

SPOOL_FILE, MARKER_SUFFIX = "spool.jsonl", ".offset"
BYTES_PER_READ = 2**20


def alone_with(folder: Path) -> FileLock:
    """The right to write a study's spool and to bring it to MLflow, until it is released or the process ends.

    Raises:
        UserError: Another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Whichever thread ends the writer may release it.
    lock = FileLock(folder / "spool.lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder} is in use: another process runs this study, and brings its records to MLflow"
        ) from None
    return lock


def waiting_records(folder: Path) -> int:
    """How many records of a study's spool are not in MLflow; 0 where there is no spool. Nothing is changed."""
    spool = folder / SPOOL_FILE
    if not spool.exists():
        return 0
    return lines(spool, _offset(spool.with_suffix(MARKER_SUFFIX)), spool.stat().st_size)


def lines(path: Path, first: int, last: int) -> int:
    """How many lines end between two offsets, bytes."""
    return sum(chunk.count(b"\n") for chunk in _chunks(path, first, last))


def _offset(marker: Path) -> int:
    try:
        return int(json.loads(marker.read_text(encoding="utf-8"))["offset"])
    except (OSError, ValueError, KeyError):
        return 0


def _chunks(path: Path, first: int, last: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(first)
        while first < last and (chunk := file.read(min(BYTES_PER_READ, last - first))):
            first += len(chunk)
            yield chunk
