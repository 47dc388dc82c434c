"""The files of a trial: checkpoints while it trains, and at its end its weights, scores and examples.

Checkpoints are in HOME/STUDY/checkpoints/trial-0007/, the others in HOME/STUDY/trials/trial-0007/. Each file is written
whole or not at all.
"""

import io
import json
import logging
import re
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow.fs import FileSelector
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vae_study.storage import Folder
from vae_study.tracking.record import EpochRecord
from vae_study.vae.inference import SCORER_FILE, WEIGHTS_FILE
from vae_study.vae.outcome import Outcome

logger = logging.getLogger(__name__)

SCORES, EXAMPLES, WEIGHTS, SCORER = "scores.parquet", "examples.npz", WEIGHTS_FILE, SCORER_FILE
# Of a trial and of its further seeds.
CODE = "code.npz"
# Deleted when a trial will not be chosen.
OF_FINALISTS = (EXAMPLES, WEIGHTS, SCORER)
# Raised whenever the meaning of what is written changes.
VERSION = 1
METADATA = "vae_study"
NAME = re.compile(r"epoch-(\d{6,})-([0-9a-f]{8})\.safetensors")
# A checkpoint that cost a second is followed by 20 seconds of training: at most about 5 % of the time.
SECONDS_PER_SECOND_OF_COST = 20.0
# What reading a file may raise that is incomplete or of another program.
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
    """One trial's checkpoints. A trial has one writer; another that is still alive by mistake does no harm."""

    def __init__(self, folder: Folder):
        self.folder = folder
        self.bad: set[str] = set()

    def save(self, snapshot: Snapshot) -> None:
        """Add a checkpoint, and keep of the earlier ones the newest.

        Raises:
            OSError: It cannot be written; the earlier ones are as they were.
        """
        self.folder.sweep()
        history = [asdict(record) for record in snapshot.history]
        about = {"version": VERSION, "epoch": snapshot.epoch, "history": history}
        content = save(snapshot.state, {METADATA: json.dumps(about)})
        name = f"epoch-{snapshot.epoch:06d}-{zlib.crc32(content):08x}.safetensors"
        self.folder.write(name, content)
        self._keep(name)

    def keep_weights(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Write the weights after an epoch beside the checkpoints, until the trial has ended.

        Raises:
            OSError: They cannot be written.
        """
        self.folder.write(f"weights-{epoch:06d}.safetensors", save(dict(weights)))

    def kept_weights(self, epoch: int) -> dict[str, Tensor]:
        """What `keep_weights` wrote after that epoch.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        return load(self.folder.read(f"weights-{epoch:06d}.safetensors"))

    def _keep(self, name: str) -> None:
        """Remove all but this checkpoint and the good one before it; later ones were bad, or of another writer."""
        others = [other for other in self._names() if other != name]
        before = [other for other in others if _epoch(other) < _epoch(name) and other not in self.bad]
        for other in others:
            if other not in before[:1]:
                self.folder.remove(other)

    def latest(self) -> Snapshot | None:
        """The newest good checkpoint, or None; warn of each newer one that cannot be used.

        Raises:
            OSError: The folder cannot be listed.
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


def subfolders(folder: Folder) -> list[str]:
    """The names of the folders in this one, such as those of the tasks that have checkpoints.

    Raises:
        OSError: It cannot be listed.
    """
    found = folder.system.get_file_info(FileSelector(folder.path, allow_not_found=True))
    return [one.base_name for one in found if not one.is_file]


def holders(folder: Folder, names: Collection[str]) -> set[str]:
    """The names of the folders in this one that have any file of these names; an object store is asked once for 1,000.

    Raises:
        OSError: It cannot be listed.
    """
    found = folder.system.get_file_info(FileSelector(folder.path, allow_not_found=True, recursive=True))
    return {one.path.split("/")[-2] for one in found if one.is_file and one.base_name in names}


def _epoch(name: str) -> int:
    return int(name.split("-")[1])


def _unpacked(name: str, content: bytes) -> Snapshot:
    found = f"{zlib.crc32(content):08x}"
    if found not in name:
        raise ValueError(f"it is truncated or corrupt: the CRC-32 of its {len(content)} bytes is {found}")
    # The library itself reads the metadata of local files only.
    size = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][METADATA])
    if about["version"] != VERSION:
        raise ValueError(f"got version {about['version']}, expected {VERSION}")
    history = [EpochRecord(**record) for record in about["history"]]
    return Snapshot(epoch=about["epoch"], state=load(content), history=history)


class CheckpointTimer:
    """When the next checkpoint is due: `every_seconds` after the last one, after every epoch if that is 0.

    But not before training has taken 20 times as long as the last checkpoint.
    """

    def __init__(self, every_seconds: float, clock: Callable[[], float] = time.monotonic):
        self.every_seconds, self.clock = every_seconds, clock
        self.due = clock() + every_seconds

    def is_due(self) -> bool:
        """Whether to write a checkpoint now."""
        return self.clock() >= self.due

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure how long a checkpoint takes, even one that fails."""
        started = self.clock()
        try:
            yield
        finally:
            ended = self.clock()
            wait = max(self.every_seconds, SECONDS_PER_SECOND_OF_COST * (ended - started))
            self.due = ended + (wait if self.every_seconds else 0.0)


def write_outcome(folder: Folder, outcome: Outcome) -> None:
    """Write all files of a trial, or none: a reader looks for the scores, which are written last and removed first.

    Raises:
        OSError: They cannot be written.
    """
    folder.remove(SCORES)
    folder.clear()
    examples, scores = io.BytesIO(), io.BytesIO()
    np.savez(examples, allow_pickle=False, **outcome.arrays)
    folder.write(EXAMPLES, examples.getbuffer())
    for name, tensors in ((WEIGHTS, outcome.weights), (SCORER, outcome.scorer)):
        folder.write(name, save({part: value.contiguous().cpu() for part, value in tensors.items()}))
    outcome.scores.to_parquet(scores)
    folder.write(SCORES, scores.getbuffer())


def write_code(folder: Folder, outcome: Outcome) -> None:
    """Write what compares a run's code with that of other seeds. Raise OSError if it cannot be written."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **outcome.code)
    folder.write(CODE, content.getbuffer())


def read_code(folder: Folder) -> dict[str, NDArray[np.float64]] | None:
    """What `write_code` wrote; None if it is not there or cannot be read."""
    try:
        with np.load(io.BytesIO(folder.read(CODE)), allow_pickle=False) as arrays:
            return {name: arrays[name].astype(np.float64) for name in ("code", "kl")}
    except (*BROKEN, BadZipFile):
        return None


def read_scores(folder: Folder) -> pd.DataFrame:
    """A trial's scores, one row per example.

    Raises:
        FileNotFoundError: The trial has left no files.
    """
    return pd.read_parquet(io.BytesIO(folder.read(SCORES)))


def fetch(folder: Folder, names: Sequence[str], into: Path) -> list[Path]:
    """Local paths of some of a trial's files: where they are if they are local, else copies.

    Args:
        folder: The trial's.
        names: Of its files.
        into: Where copies go, under the same names.

    Raises:
        FileNotFoundError: The trial has left no files.
        OSError: They cannot be read or copied.
    """
    if SCORES not in folder.names():
        raise FileNotFoundError(f"{folder}: no trial has left its files here")
    if folder.local:
        return [folder.local / name for name in names]
    for name in names:
        folder.fetch(name, into / name)
    return [into / name for name in names]
