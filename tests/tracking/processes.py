"""What the tests of the spool run in processes of their own, to kill them."""

import os
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from mlflow import MlflowClient

from pipeline.tracking import layout, uploader
from pipeline.tracking.record import EpochRecord
from pipeline.tracking.spool import Spool
from pipeline.tracking.store import find_parent, open_client, runs_by_key
from pipeline.tracking.uploader import Marker
from pipeline.tracking.writer import TrackingWriter

TRIALS, EPOCHS = 8, 6


def append_without_end(path: str, characters: int) -> None:
    """Number after number, from the last one on; every other record is a long one."""
    spool = Spool(Path(path))
    for number in count(sum(1 for _ in spool.read())):
        spool.append({"number": number, "text": "x" * (characters * (number % 2))})


def write_a_study(place: str, uri: str, study: str, dies_at_marker: int | None) -> None:
    """Go on with a study where the spool says that the process before was.

    Args:
        place: The study's folder.
        uri: The tracking store.
        study: Its name; the parent run is there.
        dies_at_marker: The upload after which the process kills itself before it marks it as done.
    """
    uploader.SECONDS_BETWEEN_BATCHES, uploader.RECORDS_PER_BATCH = 0.02, 7
    if dies_at_marker is not None:
        _die_before(dies_at_marker)
    writer = opened(open_client(uri), study, Path(place))
    for _ in trained(writer):
        time.sleep(0.005)
    writer.drain()
    writer.close()


def opened(client: MlflowClient, study: str, folder: Path) -> TrackingWriter:
    """A writer as a new driver opens it."""
    parent = find_parent(client, study)
    return TrackingWriter(client, parent, runs_by_key(client, parent), folder)


def trained(writer: TrackingWriter) -> Iterator[None]:
    """One record after another, without those that the spool has."""
    recalled = writer.recall()
    for number in range(TRIALS):
        key = layout.trial_name(number)
        known = recalled.get(key)
        if known is not None and known.end is not None:
            continue
        tags = {layout.KIND: "trial", layout.TRIAL: str(number)}
        writer.start(key, f"t{number:03d}", {"beta": number / 3}, tags)
        for epoch in range(len(known.epochs) + 1 if known else 1, EPOCHS + 1):
            metrics = {"val/kl": number + epoch / 7, "train/loss": 1 / epoch}
            writer.log_epochs(key, [EpochRecord(epoch=epoch, timestamp_ms=time.time_ns() // 10**6, metrics=metrics)])
            yield
        writer.end(key, number, {"test/auroc": number / 9}, {layout.STATE: "finished"})
        yield


def _die_before(upload: int) -> None:
    write, uploads = Marker.write, count(1)

    def write_or_die(marker: Marker, offset: int) -> None:
        if next(uploads) == upload:
            os.kill(os.getpid(), signal.SIGKILL)
        write(marker, offset)

    Marker.write = write_or_die
