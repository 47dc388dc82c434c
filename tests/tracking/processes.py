"""What the tests of the journal run in processes of their own, to kill them."""

import os
import signal
import time
from collections.abc import Iterator
from itertools import count
from multiprocessing.synchronize import Barrier
from pathlib import Path

from mlflow import MlflowClient
from vae_study.tracking import schema, uploader
from vae_study.tracking.journal import Journal, Marker
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.store import find_parent, open_client, runs_by_key
from vae_study.tracking.writer import TrackingWriter

TRIALS, EPOCHS = 8, 6


def append_and_die(path: str, whole: int, share: float) -> None:
    """Append some numbers, from the last one on, and be killed with a share of the next line written."""
    journal = Journal(Path(path))
    first = sum(1 for _ in journal.read())
    for number in range(first, first + whole):
        journal.append({"number": number})
    journal.path = _Deadly(journal.path, share)
    journal.append({"number": first + whole, "text": "x" * 100_000})


def open_together(uri: str, barrier: Barrier) -> None:
    """Open a store at the same moment as other processes."""
    barrier.wait()
    open_client(uri).search_experiments()


class _Deadly:
    """A path whose file gets a share of what is written to it, before the process is killed."""

    def __init__(self, path: Path, share: float):
        self.path, self.share = path, share

    def open(self, *mode: str, **how: int) -> "_Deadly":
        self.file = self.path.open(*mode, **how)
        return self

    def __enter__(self) -> "_Deadly":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tell(self) -> int:
        return self.file.tell()

    def write(self, line: bytes) -> None:
        self.file.write(line[: round(self.share * len(line))])
        os.kill(os.getpid(), signal.SIGKILL)


def write_a_study(
    place: str, uri: str, study: str, dies_at_marker: int | None = None, dies_at_record: int | None = None
) -> None:
    """Go on with a study where the journal says that the process before was.

    Args:
        place: The study's folder.
        uri: The tracking store.
        study: Its name; the parent run is there.
        dies_at_marker: The upload after which the process kills itself before it marks it as done.
        dies_at_record: The record after which it kills itself.
    """
    uploader.SECONDS_BETWEEN_BATCHES, uploader.EVENTS_PER_BATCH = 0.02, 7
    if dies_at_marker is not None:
        _die_before(dies_at_marker)
    writer = opened(open_client(uri), study, Path(place))
    for number, _ in enumerate(trained(writer)):
        if number == dies_at_record:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.005)
    writer.drain()
    writer.close()


def opened(client: MlflowClient, study: str, folder: Path) -> TrackingWriter:
    """A writer as a new driver opens it."""
    parent = find_parent(client, study)
    return TrackingWriter(client, parent, runs_by_key(client, parent), folder)


def trained(writer: TrackingWriter) -> Iterator[None]:
    """One record after another, without those that the journal has."""
    recalled = writer.recall()
    for number in range(TRIALS):
        key = schema.trial_name(number)
        known = recalled.get(key)
        if known is not None and known.end is not None:
            continue
        tags = {schema.KIND: "trial", schema.TRIAL: str(number)}
        writer.start(key, f"t{number:03d}", {"beta": number / 3}, tags)
        for epoch in range(len(known.epochs) + 1 if known else 1, EPOCHS + 1):
            metrics = {"val/kl": number + epoch / 7, "train/loss": 1 / epoch}
            writer.log_epochs(key, [EpochRecord(epoch=epoch, timestamp_ms=time.time_ns() // 10**6, metrics=metrics)])
            yield
        writer.end(key, number, {"test/auroc": number / 9}, {schema.STATE: "finished"})
        yield


def _die_before(upload: int) -> None:
    write, uploads = Marker.write, count(1)

    def write_or_die(marker: Marker, offset: int) -> None:
        if next(uploads) == upload:
            os.kill(os.getpid(), signal.SIGKILL)
        write(marker, offset)

    Marker.write = write_or_die
