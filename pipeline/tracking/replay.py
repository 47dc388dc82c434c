"""What each record of the spool does in MLflow. Doing it a second time changes nothing."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag

from pipeline.tracking import layout, models
from pipeline.tracking.description import filled
from pipeline.tracking.environment import dataset_input
from pipeline.tracking.frames import history_frame
from pipeline.tracking.spool import Record
from pipeline.tracking.store import keep_only, runs_with

logger = logging.getLogger(__name__)

# By default MLflow's client prints a link for each run that ends, into the midst of the study's own line.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# MLflow's own limit.
METRICS_PER_BATCH = 1000
# The parent run's key.
PARENT = ""


class Replay:
    """Applies records in their order. A metric's timestamp is in its record: a second time is the same point."""

    def __init__(self, client: MlflowClient, parent: Run, run_ids: dict[str, str]):
        self.client, self.parent = client, parent
        self.run_ids = {**run_ids, PARENT: parent.info.run_id}
        self._epochs: dict[str, dict[int, Record]] = {}
        self._points: dict[str, list[Metric]] = {}
        self._ended: set[str] = set()
        # The driver before may have died while it created a run.
        self._is_unsure = True
        self._operations: dict[str, Callable[[Record], None]] = {
            "start": self._start,
            "epochs": self._log_epochs,
            "end": self._end,
            "tags": lambda record: self._log_tags(record["run"], record["tags"]),
            "status": self._status,
            "files": self._files,
            "trials": self._trials,
            "study": self._study,
            "view": self._view,
            "model": lambda record: models.log_model(self.client, self.run_ids[record["run"]], record),
            "champion": lambda record: models.crown(self.client, self.run_ids[PARENT], record),
            "text": self._text,
        }

    def recall(self, records: Iterable[Record]) -> None:
        """Take up the histories of the runs that are still open, from records that are in MLflow already."""
        for record in records:
            if record["op"] == "epochs":
                self._remember(record)
            elif record["op"] == "end":
                self._epochs.pop(record["run"], None)

    def apply(self, records: Sequence[Record]) -> None:
        """Do what the records say; after an error it may all be applied again."""
        self._points, self._ended = {}, set()
        try:
            for record in records:
                self._operations[record["op"]](record)
            for key in list(self._points):
                self._flush(key)
        except BaseException:
            # A request that failed may have been carried out all the same.
            self._is_unsure = True
            raise
        self._is_unsure = False

    def forget(self) -> None:
        """Drop the histories of the runs that ended in records applied last."""
        for key in self._ended:
            self._epochs.pop(key, None)

    def _start(self, record: Record) -> None:
        key = record["run"]
        if key in self._ended:
            self._ended.remove(key)
            self._epochs.pop(key, None)
        if key not in self.run_ids:
            self.run_ids[key] = self._create(record)
        else:
            self._log_tags(key, {layout.STATE: "running"})
            self.client.update_run(self.run_ids[key], status="RUNNING")
        params = [Param(name, value) for name, value in record["parameters"].items()]
        self.client.log_batch(self.run_ids[key], params=params)

    def _create(self, record: Record) -> str:
        experiment, uid = self.parent.info.experiment_id, f"{self.parent.info.run_id}/{record['run']}"
        about = {
            layout.STUDY: self.parent.data.tags[layout.STUDY],
            layout.UID: uid,
            layout.STATE: "running",
            layout.PARENT: self.parent.info.run_id,
        }
        known = runs_with(self.client, experiment, uid) if self._is_unsure else []
        run = known[0] if known else self._new(record, about)
        keep_only(self.client, run, uid)
        return str(run.info.run_id)

    def _new(self, record: Record, about: Mapping[str, str]) -> Run:
        experiment, tags = self.parent.info.experiment_id, {**about, **record["tags"]}
        return self.client.create_run(experiment, record["time_ms"], tags=tags, run_name=record["name"])

    def _log_epochs(self, record: Record) -> None:
        self._remember(record)
        self._points.setdefault(record["run"], []).extend(
            Metric(name, value, stamp, epoch)
            for epoch, stamp, metrics in record["epochs"]
            for name, value in metrics.items()
        )

    def _remember(self, record: Record) -> None:
        """The parent's curves never become a file."""
        if record["run"] == PARENT:
            return
        history = self._epochs.setdefault(record["run"], {})
        history.update({epoch: metrics for epoch, _, metrics in record["epochs"]})

    def _end(self, record: Record) -> None:
        key, history = record["run"], self._epochs.get(record["run"], {})
        points = self._points.setdefault(key, [])
        points += [
            Metric(name, value, record["time_ms"], layout.final_step(name, history))
            for name, value in record["metrics"].items()
        ]
        self._flush(key)
        run_id = self.run_ids[key]
        self._attach_frame(history_frame(record["number"], history), layout.HISTORY_FILE, run_id)
        if record["error"]:
            self.client.log_text(run_id, record["error"], "error.txt")
        self._log_tags(key, record["tags"])
        status = "FAILED" if record["tags"][layout.STATE] == "failed" else "FINISHED"
        self.client.set_terminated(run_id, status, record["time_ms"])
        self._ended.add(key)

    def _status(self, record: Record) -> None:
        self._flush(record["run"])
        run_id = self.run_ids[record["run"]]
        if record["status"] in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=record["status"])
        else:
            self.client.set_terminated(run_id, record["status"], record["time_ms"])

    def _files(self, record: Record) -> None:
        for file in record["files"]:
            if Path(file).exists():
                self.client.log_artifact(self.run_ids[record["run"]], file)
            else:
                logger.warning("%s is gone and cannot be attached", file)

    def _trials(self, record: Record) -> None:
        """The frame of all trials, whose runs are known only now."""
        frame = pd.read_parquet(record["file"])
        frame["run_id"] = [self.run_ids.get(layout.trial_name(number)) for number in frame["trial"]]
        self._attach_frame(frame, layout.TRIALS_FILE, self.run_ids[PARENT])

    def _study(self, record: Record) -> None:
        """A driver begins, or goes on."""
        self._log_tags(PARENT, record["tags"])
        self.client.update_run(self.run_ids[PARENT], status="RUNNING")

    def _view(self, record: Record) -> None:
        experiment, parent = self.parent.info.experiment_id, self.run_ids[PARENT]
        name, value = (text.replace("{parent}", parent) for text in record["view"])
        self.client.set_experiment_tag(experiment, name, value)
        if record["data"]:
            self.client.log_inputs(parent, datasets=[dataset_input(record["data"])])

    def _text(self, record: Record) -> None:
        self.client.log_text(self.run_ids[record["run"]], record["text"], record["name"])

    def _log_tags(self, key: str, tags: Mapping[str, str]) -> None:
        if layout.NOTE in tags:
            ids = self.parent.info.experiment_id, self.run_ids[PARENT]
            tags = {**tags, layout.NOTE: filled(tags[layout.NOTE], self.run_ids, *ids)}
        self.client.log_batch(self.run_ids[key], tags=[RunTag(name, value) for name, value in tags.items()])

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
    """How many points may go at once, so that MLflow has an epoch with all of its metrics or not at all."""
    size = METRICS_PER_BATCH
    while 0 < size < len(points) and points[size - 1].timestamp == points[size].timestamp:
        size -= 1
    return size or METRICS_PER_BATCH
