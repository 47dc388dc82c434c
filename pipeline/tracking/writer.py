"""What a study says of itself as it goes: every call is one line in the spool, and none waits for MLflow."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.errors import StudyError
from pipeline.tracking import layout
from pipeline.tracking.record import EpochRecord
from pipeline.tracking.replay import PARENT
from pipeline.tracking.spool import Record, Spool
from pipeline.tracking.uploader import Uploader

SPOOL_FILE, OUTBOX = "spool.jsonl", "outbox"
PATIENCE_SECONDS = 60.0


@dataclass
class Recalled:
    """A run as the spool has it.

    Attributes:
        epochs: In their order; of a run that has ended, the last one only.
        end: The record of its end, if it has come.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    end: Record | None = None


class TrackingWriter:
    """Writes a study's runs: one parent, one child a trial."""

    def __init__(self, client: MlflowClient, parent: Run, child_runs: Mapping[str, str], folder: Path):
        """Start writing beneath a parent run.

        Args:
            client: Of the tracking store.
            parent: The study's run.
            child_runs: The runs that it has already, by their keys.
            folder: On a local disk, for the spool and for files on their way.
        """
        self.client, self.parent_id, self.outbox = client, parent.info.run_id, folder / OUTBOX
        self.spool = Spool(folder / SPOOL_FILE)
        self.uploader = Uploader(client, parent, dict(child_runs), self.spool)

    def start(self, key: str, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the run that goes by `key` within this study, or open again the one that it has."""
        texts = {name: layout.text_value(value) for name, value in parameters.items()}
        self._append("start", key, name=name, parameters=texts, tags=dict(tags))

    def log_epochs(self, key: str, epochs: Sequence[EpochRecord]) -> None:
        """Log some epochs' metrics; step is the epoch."""
        if epochs:
            rows = [[record.epoch, record.timestamp_ms, record.metrics] for record in epochs]
            self._append("epochs", key, epochs=rows)

    def end(
        self,
        key: str,
        number: int,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        error: str | None = None,
    ) -> None:
        """Close a run of trial `number` with its final metrics, its state and what else the tags say.

        It survives the machine's crash from here on, so that the study store may take the trial as ended.
        """
        self._append("end", key, True, number=number, metrics=dict(metrics), tags=dict(tags), error=error)

    def pause(self, key: str) -> None:
        """Mark a run that a later driver goes on with."""
        self.tag(key, {layout.STATE: "waiting"})
        self._append("status", key, status="SCHEDULED")

    def tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self._append("tags", key, tags=dict(tags))

    def log_files(self, key: str, files: Sequence[Path]) -> None:
        """Attach local files to a run; they have to stay where they are until they are uploaded."""
        self._append("files", key, files=[str(file) for file in files])

    def log_frame(self, frame: pd.DataFrame, name: str) -> None:
        """Attach a frame to the parent run as Parquet."""
        self.outbox.mkdir(exist_ok=True)
        frame.to_parquet(self.outbox / name, index=False)
        self.log_files(PARENT, [self.outbox / name])

    def log_text(self, text: str, name: str) -> None:
        """Attach a text to the parent run."""
        self._append("text", PARENT, text=text, name=name)

    def close_parent(self, tags: Mapping[str, str], status: str) -> None:
        """The parent's last tags and its status."""
        self.tag(PARENT, tags)
        self._append("status", PARENT, status=status)

    def recall(self) -> dict[str, "Recalled"]:
        """What the spool knows of every run, from this driver and those before it."""
        known: dict[str, Recalled] = {}
        for _, record in self.spool.read():
            run = known.setdefault(record["run"], Recalled())
            if record["op"] == "start" and run.end:
                known[record["run"]] = Recalled()
            elif record["op"] == "epochs":
                run.epochs += [EpochRecord(epoch=e, timestamp_ms=t, metrics=m) for e, t, m in record["epochs"]]
            elif record["op"] == "end":
                run.end, run.epochs = record, run.epochs[-1:]
        return known

    def drain(self) -> None:
        """Wait until everything handed over so far is in MLflow.

        Raises:
            StudyError: The server stays away.
        """
        if not self.uploader.drain(PATIENCE_SECONDS):
            raise StudyError(
                f"MLflow at {self.client.tracking_uri} is away; {self.uploader.waiting()} records wait in "
                f"{self.spool.path} and are lost to nobody; go on once it is back"
            )

    def close(self) -> None:
        """End the uploading; what is not uploaded yet stays in the spool for the next time."""
        self.uploader.close()

    def _append(self, operation: str, key: str, is_durable: bool = False, **content: Any) -> None:
        self.spool.append({"op": operation, "run": key, "time_ms": time.time_ns() // 10**6, **content}, is_durable)
