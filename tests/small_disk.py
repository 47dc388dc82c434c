"""A file system of its own that is soon full."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, options: str = "size=1m") -> Iterator[Path]:
    """A tmpfs on a folder; the test is skipped where none may be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command mount, for a disk that is soon full")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs, for a disk that is soon full: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
