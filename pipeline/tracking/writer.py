"""From the study to MLflow: one parent run a study, one child run a trial, written by a thread of its own."""

import json
import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from pipeline.tracking import layout
from pipeline.tracking.record import EpochRecord

logger = logging.getLogger(__name__)

Operation = Callable[[], None]
# MLflow's own limit.
METRICS_PER_BATCH = 1000
SECONDS_BETWEEN_BATCHES = 1.0


class TrackingWriter:
    """Writes a study as it goes. Calls return at once; `close` waits until all is written."""

    def __init__(self, client: MlflowClient, parent: Run, child_runs: Mapping[str, str]):
        """Start writing beneath a parent run; `child_runs` are the runs that it has already, by their keys."""
        self.client = client
        self.experiment_id, self.parent_id = parent.info.experiment_id, parent.info.run_id
        self.study = parent.data.tags[layout.STUDY]
        self.run_ids = dict(child_runs)
        self.errors: list[Exception] = []
        self._points: dict[str, list[Metric]] = {}
        self._operations: queue.Queue[Operation | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def start(self, key: str, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the run that goes by `key` within this study, or open again the one that it has."""
        self._operations.put(lambda: self._start(key, name, parameters, tags))

    def log_epochs(self, key: str, epochs: Sequence[EpochRecord]) -> None:
        """Log some epochs' metrics; step is the epoch."""
        points = [
            Metric(name, value, record.timestamp_ms, record.epoch)
            for record in epochs
            for name, value in record.metrics.items()
        ]
        self._operations.put(lambda: self._points.setdefault(key, []).extend(points))

    def end(
        self,
        key: str,
        number: int,
        state: str,
        failure: str | None,
        metrics: Mapping[str, float],
        history: Sequence[EpochRecord],
        error: str | None,
    ) -> None:
        """Close a run of trial `number` with its final metrics, its history as a file, and why it failed if it did."""
        stamp = history[-1].timestamp_ms if history else time.time_ns() // 10**6
        final = [Metric(name, value, stamp, len(history)) for name, value in metrics.items()]
        tags = {layout.STATE: state} | ({layout.FAILURE: failure} if failure else {})

        def operation() -> None:
            self._points.setdefault(key, []).extend(final)
            self._flush(key)
            run_id = self.run_ids[key]
            self.log_frame(history_frame(number, history), layout.HISTORY_FILE, run_id)
            if error:
                self.client.log_text(run_id, error, "error.txt")
            self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            self.client.set_terminated(run_id, "FAILED" if state == "failed" else "FINISHED")

        self._operations.put(operation)

    def log_files(self, key: str, files: Sequence[Path]) -> None:
        """Attach files to a run."""

        def operation() -> None:
            for file in files:
                self.client.log_artifact(self.run_ids[key], str(file))

        self._operations.put(operation)

    def log_frame(self, frame: pd.DataFrame, name: str, run_id: str) -> None:
        """Attach a frame to a run as Parquet, at once."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            frame.to_parquet(path, index=False)
            self.client.log_artifact(run_id, str(path))

    def log_json(self, content: Any, name: str) -> None:
        """Attach plain values to the parent run."""
        text = json.dumps(content, indent=2, sort_keys=True)
        self._operations.put(lambda: self.client.log_text(self.parent_id, text, name))

    def drain(self) -> None:
        """Wait until everything handed over so far is written."""
        done = threading.Event()
        self._operations.put(done.set)
        done.wait()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._operations.put(None)
        self._thread.join()

    def _work(self) -> None:
        flushed = time.monotonic()
        while True:
            try:
                operation = self._operations.get(timeout=SECONDS_BETWEEN_BATCHES)
            except queue.Empty:
                operation = self._flush_all
            if operation is None:
                return self._attempt(self._flush_all)
            self._attempt(operation)
            if time.monotonic() - flushed > SECONDS_BETWEEN_BATCHES:
                self._attempt(self._flush_all)
                flushed = time.monotonic()

    def _attempt(self, operation: Operation) -> None:
        try:
            operation()
        except Exception as error:
            self.errors.append(error)
            logger.warning("MLflow refused a record: %s", error)

    def _start(self, key: str, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        if key in self.run_ids:
            return self.client.set_terminated(self.run_ids[key], "RUNNING")
        about = {
            layout.STUDY: self.study,
            layout.UID: f"{self.parent_id}/{key}",
            layout.STATE: "running",
            layout.PARENT: self.parent_id,
        }
        run = self.client.create_run(self.experiment_id, tags={**about, **tags}, run_name=name)
        self.run_ids[key] = run.info.run_id
        params = [Param(name, layout.text_value(value)) for name, value in parameters.items()]
        self.client.log_batch(run.info.run_id, params=params)

    def _flush_all(self) -> None:
        for key in list(self._points):
            self._flush(key)

    def _flush(self, key: str) -> None:
        points = self._points.pop(key, [])
        for start in range(0, len(points), METRICS_PER_BATCH):
            self.client.log_batch(self.run_ids[key], metrics=points[start : start + METRICS_PER_BATCH])


def history_frame(number: int, history: Sequence[EpochRecord]) -> pd.DataFrame:
    """A trial's history: a row an epoch with `trial`, `epoch` and the metrics; no epochs, no rows."""
    rows = [{"trial": number, "epoch": record.epoch, **record.metrics} for record in history]
    return pd.DataFrame(rows, columns=None if rows else ["trial", "epoch"])
