"""Uploads the journal to MLflow in a thread: each event at least once, and a second time changes nothing."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from vae_study.errors import redacted
from vae_study.tracking import events as ev
from vae_study.tracking import models, schema
from vae_study.tracking.journal import Journal, Marker, count_lines
from vae_study.tracking.note import filled
from vae_study.tracking.record import history_frame
from vae_study.tracking.store import dataset_input, keep_only, runs_with

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_BATCHES = 1.0
EVENTS_PER_BATCH = 2000
LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_WHILE_AWAITED_SECONDS = 30.0, 2.0
SECONDS_TO_BE_SLOW = 10.0
# MLflow's own limit.
METRICS_PER_BATCH = 1000
# Permanent errors, for which a retry is useless. BAD_REQUEST is not one of them: a failing proxy or the server's
# database may be the cause.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")

# By default MLflow's client prints a link for each run that ends, in the middle of the study's own line.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


class Uploader:
    """Sends a journal's events to MLflow in order, and stores its position.

    Attributes:
        errors: What MLflow refused for good.
        is_away: Whether the last attempt failed because the server did not answer.
    """

    def __init__(self, client: MlflowClient, parent: Run, run_ids: dict[str, str], journal: Journal):
        """Continue where an earlier uploader of this journal and parent run stopped.

        If MLflow lacks a run that it had, somebody has deleted it, and all events are uploaded again.
        """
        self.journal, self.errors, self.is_away = journal, list[Exception](), False
        self._replay = Replay(client, parent, run_ids)
        self._marker = Marker(journal.path, parent.info.run_id)
        # If the journal was lost and a new one begun, the saved offset is beyond its end.
        self._offset = min(self._marker.read(), journal.end)
        uploaded = (ev.parsed(plain) for offset, plain in journal.read() if offset <= self._offset)
        if not self._replay.recall(uploaded):
            self._offset = 0
        self._marker.write(self._offset)
        self._size = EVENTS_PER_BATCH
        # Two offsets, and how many events lie between them.
        self._counted = self._offset, self._offset, 0
        self._advanced = time.monotonic()
        self._wake, self._is_closing, self._is_awaited = threading.Event(), False, False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        """Bytes of the journal that are not in MLflow yet."""
        return self.journal.end - self._offset

    def pending(self) -> int:
        """How many events of the journal are not in MLflow yet."""
        # Once a second the progress line asks: only what has come and gone since is read.
        first, last, count = self._counted
        begin, end = self._offset, self.journal.end
        count += count_lines(self.journal.path, last, end) - count_lines(self.journal.path, first, begin)
        self._counted = begin, end, count
        return count

    def stalled(self) -> int:
        """How many events are pending because MLflow does not answer, or is slower than the study; else 0."""
        is_slow = time.monotonic() - self._advanced > SECONDS_TO_BE_SLOW
        return self.pending() if self.is_away or (self.pending_bytes and is_slow) else 0

    def drain(self, patience_seconds: float, show: Callable[[int], None] = lambda left: None) -> bool:
        """Wait until all is in MLflow; return False if it has not answered for `patience_seconds`.

        `show` is called with the number of pending events: at first, whenever it has changed, and with 0 at the end.
        """
        self._is_awaited = True
        try:
            offset, since = -1, time.monotonic()
            self._wake.set()
            while self.pending_bytes:
                if not self.is_away:
                    self._wake.set()
                if self._offset != offset:
                    offset, since = self._offset, time.monotonic()
                    show(self.pending())
                elif self.is_away and time.monotonic() - since > patience_seconds:
                    return False
                time.sleep(0.02)
            show(0)
            return True
        finally:
            self._is_awaited = False

    def close(self) -> None:
        """End the thread after the current request."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout=2 * LONGEST_PAUSE_SECONDS)

    def _work(self) -> None:
        pause = SECONDS_BETWEEN_BATCHES
        while not self._is_closing:
            try:
                has_more = self._upload()
                pause, self.is_away = SECONDS_BETWEEN_BATCHES, False
            except Exception as error:
                if not self.is_away:
                    # SQLAlchemy adds the whole query.
                    reason = redacted(str(error)).partition("\n")[0][:500]
                    logger.warning("MLflow does not answer; records are kept in %s: %s", self.journal.path, reason)
                longest = LONGEST_PAUSE_WHILE_AWAITED_SECONDS if self._is_awaited else LONGEST_PAUSE_SECONDS
                has_more, self.is_away, pause = False, True, min(2 * pause, longest)
            if not has_more:
                self._wake.wait(pause)
                self._wake.clear()

    def _upload(self) -> bool:
        """Upload one batch; returns whether another one should follow at once.

        After an error the whole batch is uploaded again, but fewer events at a time: a server that fails at every tenth
        request would never take a long batch, and an event that it refuses must be alone in its batch.
        """
        batch = list(self.journal.read(self._offset, self._size))
        if not batch:
            self._advanced = time.monotonic()
            return False
        # An event that MLflow has and the journal lost in a crash would be logged again, at another time.
        self.journal.sync()
        try:
            self._replay.apply([ev.parsed(plain) for _, plain in batch])
        except Exception as error:
            self._size = max(1, len(batch) // 2)
            # The same request may succeed later if the server does not answer, is slow or has an error.
            if error.error_code not in REFUSALS if isinstance(error, MlflowException) else isinstance(error, OSError):
                raise
            if len(batch) > 1:
                return True
            logger.warning("MLflow refused a record: %s", error)
            self.errors.append(error)
        self._offset, self._advanced = batch[-1][0], time.monotonic()
        self._marker.write(self._offset)
        self._replay.forget()
        is_full, self._size = len(batch) == self._size, min(2 * self._size, EVENTS_PER_BATCH)
        return is_full


class Replay:
    """Applies events in order. A metric's timestamp is in its event, so a second time gives the same point."""

    def __init__(self, client: MlflowClient, parent: Run, run_ids: Mapping[str, str]):
        self.client, self.parent = client, parent
        self.run_ids = {**run_ids, ev.PARENT: parent.info.run_id}
        # The epochs of open runs, for the history file that each run gets at its end.
        self._epochs: dict[str, dict[int, Mapping[str, float]]] = {}
        self._points: dict[str, list[Metric]] = {}
        self._ended: set[str] = set()
        # Whether an earlier request may have been carried out without an answer: an earlier driver may have died.
        self._is_unsure = True
        self._operations: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.StudyBegun: self._begin,
            ev.DataDescribed: lambda event: self.client.log_inputs(
                self.run_ids[event.run], datasets=[dataset_input(event.summary)]
            ),
            ev.RunStarted: self._start,
            ev.EpochsLogged: self._log_epochs,
            ev.RunEnded: self._end,
            ev.TagsSet: lambda event: self._log_tags(event.run, event.tags),
            ev.StatusSet: self._set_status,
            ev.FilesLogged: self._log_files,
            ev.TrialsLogged: self._log_trials,
            ev.TextLogged: lambda event: self.client.log_text(self.run_ids[event.run], event.text, event.name),
            ev.ModelLogged: lambda event: models.log_model(self.client, self.run_ids[event.run], event),
            ev.ChampionChosen: lambda event: models.set_champion(self.client, self.run_ids[event.run], event),
        }

    def recall(self, events: Iterable[ev.Event]) -> bool:
        """Collect the histories of the open runs from events that are in MLflow already.

        Returns:
            Whether MLflow has every run that they started; if not, nothing is collected.
        """
        for event in events:
            if isinstance(event, ev.RunStarted) and event.run not in self.run_ids:
                self._epochs.clear()
                return False
            if isinstance(event, ev.EpochsLogged):
                self._remember(event)
            elif isinstance(event, ev.RunEnded):
                self._epochs.pop(event.run, None)
        return True

    def apply(self, events: Sequence[ev.Event]) -> None:
        """Apply events; after an error they may all be applied again."""
        self._points, self._ended = {}, set()
        try:
            for event in events:
                self._operations[type(event)](event)
            for key in list(self._points):
                self._flush(key)
        except BaseException:
            # A failed request may have been carried out nevertheless.
            self._is_unsure = True
            raise
        self._is_unsure = False

    def forget(self) -> None:
        """Drop the histories of the runs that ended in the last events."""
        for key in self._ended:
            self._epochs.pop(key, None)

    def _begin(self, event: ev.StudyBegun) -> None:
        self._log_tags(event.run, event.tags)
        self.client.update_run(self.run_ids[event.run], status="RUNNING")

    def _start(self, event: ev.RunStarted) -> None:
        key = event.run
        if key in self._ended:
            self._ended.remove(key)
            self._epochs.pop(key, None)
        if key not in self.run_ids:
            self.run_ids[key] = self._created(event)
        else:
            self._log_tags(key, {schema.STATE: "running"})
            self.client.update_run(self.run_ids[key], status="RUNNING")
        params = [Param(name, value) for name, value in event.parameters.items()]
        self.client.log_batch(self.run_ids[key], params=params)

    def _created(self, event: ev.RunStarted) -> str:
        """The id of a new run, or of the one that an unanswered request has created."""
        experiment, parent = self.parent.info.experiment_id, self.parent
        uid = f"{parent.info.run_id}/{event.run}"
        found = runs_with(self.client, experiment, uid) if self._is_unsure else []
        if found:
            run = found[0]
        else:
            tags = {
                schema.STUDY: parent.data.tags[schema.STUDY],
                schema.UID: uid,
                schema.STATE: "running",
                schema.PARENT: parent.info.run_id,
                **event.tags,
            }
            run = self.client.create_run(experiment, event.time_ms, tags=tags, run_name=event.name)
        keep_only(self.client, run, uid)
        return str(run.info.run_id)

    def _log_epochs(self, event: ev.EpochsLogged) -> None:
        self._remember(event)
        self._points.setdefault(event.run, []).extend(
            Metric(name, value, one.timestamp_ms, one.epoch)
            for one in event.epochs
            for name, value in one.metrics.items()
        )

    def _remember(self, event: ev.EpochsLogged) -> None:
        # The parent's curves are not written to a file.
        if event.run != ev.PARENT:
            self._epochs.setdefault(event.run, {}).update({one.epoch: one.metrics for one in event.epochs})

    def _end(self, event: ev.RunEnded) -> None:
        key, history = event.run, self._epochs.get(event.run, {})
        points = self._points.setdefault(key, [])
        points += [
            Metric(name, value, event.time_ms, schema.final_step(name, history))
            for name, value in event.metrics.items()
        ]
        self._flush(key)
        run_id = self.run_ids[key]
        self._attach_frame(history_frame(event.number, history), schema.HISTORY_FILE, run_id)
        if event.error:
            self.client.log_text(run_id, event.error, "error.txt")
        self._log_tags(key, event.tags)
        status = "FAILED" if event.tags[schema.STATE] == "failed" else "FINISHED"
        self.client.set_terminated(run_id, status, event.time_ms)
        self._ended.add(key)

    def _set_status(self, event: ev.StatusSet) -> None:
        self._flush(event.run)
        run_id = self.run_ids[event.run]
        if event.status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=event.status)
        else:
            self.client.set_terminated(run_id, event.status, event.time_ms)

    def _log_files(self, event: ev.FilesLogged) -> None:
        for file in event.files:
            if Path(file).exists():
                self.client.log_artifact(self.run_ids[event.run], file)
            else:
                logger.warning("%s is gone and cannot be attached", file)

    def _log_trials(self, event: ev.TrialsLogged) -> None:
        frame = pd.read_parquet(event.file)
        frame["run_id"] = [self.run_ids.get(schema.trial_name(number)) for number in frame["trial"]]
        self._attach_frame(frame, schema.TRIALS_FILE, self.run_ids[event.run])

    def _log_tags(self, key: str, tags: Mapping[str, str]) -> None:
        experiment, parent = self.parent.info.experiment_id, self.run_ids[ev.PARENT]
        own = {name: value for name, value in tags.items() if name != schema.VIEW}
        if schema.NOTE in own:
            own[schema.NOTE] = filled(own[schema.NOTE], self.run_ids, experiment, parent)
        if schema.VIEW in tags:
            view = filled(tags[schema.VIEW], self.run_ids, experiment, parent)
            self.client.set_experiment_tag(experiment, f"{schema.SHARED_VIEW}{parent}", view)
        self.client.log_batch(self.run_ids[key], tags=[RunTag(name, value) for name, value in own.items()])

    def _flush(self, key: str) -> None:
        points = self._points.pop(key, [])
        while points:
            size = _whole_epochs(points)
            self.client.log_batch(self.run_ids[key], metrics=points[:size])
            points = points[size:]

    def _attach_frame(self, frame: pd.DataFrame, name: str, run_id: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            frame.to_parquet(path, index=False)
            self.client.log_artifact(run_id, str(path))


def _whole_epochs(points: Sequence[Metric]) -> int:
    """How many points fit into one request, so that MLflow has either all metrics of an epoch or none."""
    size = METRICS_PER_BATCH
    while 0 < size < len(points) and points[size - 1].timestamp == points[size].timestamp:
        size -= 1
    return size or METRICS_PER_BATCH
