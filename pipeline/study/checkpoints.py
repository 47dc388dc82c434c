"""The checkpoints of one trial, in HOME/STUDY/checkpoints/trial-0007/: one file each, written whole or not at all."""

import json
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pyarrow.fs import FileSelector
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.folders import Folder
from pipeline.tracking.record import EpochRecord

logger = logging.getLogger(__name__)

# Raised whenever the meaning of what is written changes.
VERSION = 1
METADATA = "vae_study"
NAME = re.compile(r"epoch-(\d{6,})-([0-9a-f]{8})\.safetensors")
# A checkpoint that cost a second is followed by 20 seconds of training: at most about 5 % of the time.
SECONDS_PER_SECOND_OF_COST = 20.0
# What reading a file that is torn, or not ours, may throw.
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A trial between two epochs.

    Attributes:
        epoch: Epochs done.
        state: All that the rest of the training depends on, by name.
        history: The records of the epochs done.
    """

    epoch: int
    state: dict[str, Tensor]
    history: Sequence[EpochRecord]


class Checkpoints:
    """One trial's checkpoints. A trial has one writer; one that is thought dead and lives on does no harm."""

    def __init__(self, folder: Folder):
        self.folder = folder
        self.bad: set[str] = set()

    def save(self, snapshot: Snapshot) -> None:
        """Add a checkpoint, and keep of the earlier ones the newest.

        Raises:
            OSError: It cannot be written; the earlier ones are as they were.
        """
        self.folder.sweep()
        content = _packed(snapshot)
        name = f"epoch-{snapshot.epoch:06d}-{zlib.crc32(content):08x}.safetensors"
        self.folder.write(name, content)
        self._keep(name)

    def _keep(self, name: str) -> None:
        """Remove all but this checkpoint and the one before it: what lies ahead of it was bad, or another's."""
        others = [other for other in self._names() if other != name]
        before = [other for other in others if _epoch(other) < _epoch(name) and other not in self.bad]
        for other in others:
            if other not in before[:1]:
                self.folder.remove(other)

    def latest(self) -> Snapshot | None:
        """The newest checkpoint that is good, with a warning for each newer one that is not; None where there is none.

        Raises:
            OSError: The folder cannot be looked into.
        """
        for name in self._names():
            try:
                return _unpacked(name, self.folder.read(name))
            except BROKEN as reason:
                logger.warning("%s cannot be used and is passed over: %s", self.folder / name, reason)
                self.bad.add(name)
        return None

    def clear(self) -> None:
        """Remove them all."""
        self.folder.clear()

    def _names(self) -> list[str]:
        """Files that are named like checkpoints, the newest first."""
        return sorted(filter(NAME.fullmatch, self.folder.names()), key=_epoch, reverse=True)


def with_checkpoints(folder: Folder) -> list[str]:
    """The tasks that have checkpoints, each in a folder of its own in this one.

    Raises:
        OSError: It cannot be looked into.
    """
    found = folder.system.get_file_info(FileSelector(folder.path, allow_not_found=True))
    return [one.base_name for one in found if not one.is_file]


def _epoch(name: str) -> int:
    return int(name.split("-")[1])


def _packed(snapshot: Snapshot) -> bytes:
    history = [asdict(record) for record in snapshot.history]
    about = {"version": VERSION, "epoch": snapshot.epoch, "history": history}
    return save(snapshot.state, {METADATA: json.dumps(about)})


def _unpacked(name: str, content: bytes) -> Snapshot:
    found = f"{zlib.crc32(content):08x}"
    if found not in name:
        raise ValueError(f"it is torn or corrupt: the CRC-32 of its {len(content)} bytes is {found}")
    about = _metadata(content)
    if about["version"] != VERSION:
        raise ValueError(f"came version {about['version']}, expected {VERSION}")
    history = [EpochRecord(**record) for record in about["history"]]
    return Snapshot(epoch=about["epoch"], state=load(content), history=history)


def _metadata(content: bytes) -> dict[str, Any]:
    """The JSON beside the tensors, from where the format has it: safetensors itself gives it of local files only."""
    size = int.from_bytes(content[:8], "little")
    about: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][METADATA])
    return about


class Pace:
    """When the next checkpoint is due.

    Not before `every_seconds` since the last one, nor before the training has taken 20 times what that one cost;
    where `every_seconds` is 0, at every epoch.
    """

    def __init__(self, every_seconds: float, clock: Callable[[], float] = time.monotonic):
        self.every_seconds, self.clock = every_seconds, clock
        self.due = clock() + every_seconds

    def is_due(self) -> bool:
        """Whether it is time."""
        return self.clock() >= self.due

    @contextmanager
    def paying(self) -> Iterator[None]:
        """Around what a checkpoint costs, also one that fails."""
        started = self.clock()
        try:
            yield
        finally:
            ended = self.clock()
            wait = max(self.every_seconds, SECONDS_PER_SECOND_OF_COST * (ended - started))
            self.due = ended + (wait if self.every_seconds else 0.0)
