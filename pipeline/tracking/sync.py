"""Bringing to MLflow what a study has said while MLflow was away, or to another MLflow all that it ever said."""

import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.errors import UserError
from pipeline.tracking.backlog import SPOOL_FILE
from pipeline.tracking.spool import Spool
from pipeline.tracking.store import create_parent, find_parent, runs_by_key
from pipeline.tracking.writer import PATIENCE_SECONDS, TrackingWriter

SECONDS_BETWEEN_LOOKS = 0.2


def sync(client: MlflowClient, name: str, folder: Path, show: Callable[[int], None]) -> int:
    """Replay a study's spool until nothing waits, and mark what a dead driver left running.

    Args:
        client: Of the tracking store.
        name: The study's name.
        folder: Where the spool is.
        show: Called now and then with how many records wait.

    Returns:
        How many records have been brought.

    Raises:
        UserError: There is no spool, or another process is writing it.
        StudyError: The store went away, or refused something.
    """
    if not (folder / SPOOL_FILE).exists():
        raise UserError(f"{folder} has no {SPOOL_FILE}: nothing of the study {name!r} waits here")
    parent = find_parent(client, name) or _recreated(client, name, folder)
    writer = TrackingWriter(client, parent, runs_by_key(client, parent), folder)
    try:
        writer.abandon()
        count = writer.uploader.waiting()
        _watch(writer, show)
        writer.require_accepted()
    finally:
        writer.close()
    return count


def _recreated(client: MlflowClient, name: str, folder: Path) -> Run:
    begun = next((record for _, record in Spool(folder / SPOOL_FILE).read() if record["op"] == "study"), None)
    if begun is None:
        raise UserError(f"no study {name!r} in {client.tracking_uri}, and {folder} does not say how it began")
    return create_parent(client, begun)


def _watch(writer: TrackingWriter, show: Callable[[int], None]) -> None:
    waiting, since = writer.uploader.waiting(), time.monotonic()
    while waiting:
        show(waiting)
        time.sleep(SECONDS_BETWEEN_LOOKS)
        left = writer.uploader.waiting()
        if left != waiting:
            waiting, since = left, time.monotonic()
        elif writer.uploader.is_away and time.monotonic() - since > PATIENCE_SECONDS:
            raise writer.away()
    show(0)
