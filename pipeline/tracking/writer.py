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
from pipeline.folders import Folder
from pipeline.secrets import redacted_values
from pipeline.tracking import heard, layout
from pipeline.tracking.archive import Archive
from pipeline.tracking.backlog import SPOOL_FILE, alone_with
from pipeline.tracking.curves import ENDED
from pipeline.tracking.frames import RunFacts, confirmations_frame, trials_frame
from pipeline.tracking.known import KnownRuns, histories, history_of
from pipeline.tracking.reader import downloaded_histories
from pipeline.tracking.record import EpochRecord
from pipeline.tracking.replay import PARENT
from pipeline.tracking.spool import Record, Spool
from pipeline.tracking.uploader import Uploader

OUTBOX = "outbox"
PATIENCE_SECONDS = 30.0
# What records name on this machine's disk.
PLACES = ("file", "files", "folder")


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
    """Writes a study's runs: one parent, one child a trial.

    Attributes:
        restored: The runs that had to be said again.
    """

    def __init__(
        self,
        client: MlflowClient,
        parent: Run,
        child_runs: Mapping[str, Run],
        folder: Path,
        archive: Folder | None = None,
    ):
        """Start writing beneath a parent run.

        Args:
            client: Of the tracking store.
            parent: The study's run.
            child_runs: The runs that it has already, by their keys.
            folder: On a local disk, for the spool and for files on their way.
            archive: Where each run has a folder that lasts longer than that disk.

        Raises:
            UserError: Another process writes there.
        """
        self.client, self.parent_id, self.outbox = client, parent.info.run_id, folder / OUTBOX
        self._held = alone_with(folder)
        self.spool = Spool(folder / SPOOL_FILE)
        self._archive = Archive(archive, parent.data.tags)
        self._open_elsewhere = {key: run for key, run in child_runs.items() if not heard.has_ended(run)}
        facts = {key: heard.facts_of(run) for key, run in child_runs.items()}
        self._known = KnownRuns({PARENT: RunFacts.of(parent), **facts})
        self._here: set[str] = set()
        self._ended_elsewhere: set[str] = set()
        self.restored: set[str] = set()
        self._elsewhere = self._recalled_elsewhere(child_runs)
        run_ids = {key: run.info.run_id for key, run in child_runs.items()}
        self.uploader = Uploader(client, parent, run_ids, self.spool)

    def _recalled_elsewhere(self, child_runs: Mapping[str, Run]) -> dict[str, pd.DataFrame]:
        """The histories of trials that a driver on another machine has written down."""
        for _, record in self.spool.read():
            self._take(record)
        missed = {key: run for key, run in child_runs.items() if key not in self._here}
        return downloaded_histories(self.client, {key: run for key, run in missed.items() if heard.has_ended(run)})

    def begin(self, begun: Mapping[str, Any]) -> None:
        """A driver begins, or goes on; from `begun` another tracking store could make the parent run anew.

        Args:
            begun: `experiment` and `name` (the parent run's), and its `tags`.
        """
        self._append("study", PARENT, **begun)

    def show(self, view: tuple[str, str], data: Mapping[str, Any] | None = None) -> None:
        """What MLflow's UI shows of the study: a view of its trials (`views.shared_view`), and its data's summary."""
        self._append("view", PARENT, view=list(view), data=data and dict(data))

    def start(self, key: str, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the run that goes by `key` within this study, or open again the one that it has."""
        self._append("start", key, name=name, parameters=_texts(parameters), tags=dict(tags))

    def log_epochs(self, key: str, epochs: Sequence[EpochRecord]) -> None:
        """Log some epochs' metrics; step is the epoch."""
        if epochs:
            rows = [[record.epoch, record.timestamp_ms, record.metrics] for record in epochs]
            self._append("epochs", key, epochs=rows)

    def log_curves(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log how the study got on with the `step`-th trial that ended."""
        stamp = time.time_ns() // 10**6
        self.log_epochs(PARENT, [EpochRecord(epoch=step, timestamp_ms=stamp, metrics=dict(metrics))])

    def curve_step(self) -> int:
        """The step that the study's curves have reached."""
        metrics = self._known.metrics(PARENT)
        return int(sum(metrics.get(f"study/{state}", 0.0) for state in ENDED))

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
        record = self._record("end", key, number=number, metrics=dict(metrics), tags=dict(tags), error=error)
        self._archive.keep(record)
        self._tell(record, is_durable=True)

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

    def log_model(self, key: str, name: str, folder: Path, about: Mapping[str, Any]) -> None:
        """Attach a model to a run.

        Args:
            key: The run.
            name: The model's, unique within the study.
            folder: What `models.as_pyfunc` made; it has to stay where it is until it is uploaded.
            about: `tags`, and `metrics`: the names of those of the run that are shown beside it.
        """
        self._append("model", key, name=name, folder=str(folder), about=dict(about))

    def crown(self, name: str, rule: str, note: str) -> None:
        """Register a model of this study as the one that the rule chose."""
        self._append("champion", PARENT, name=name, rule=rule, note=note)

    def log_trials(self) -> None:
        """Attach the frames of all trials and of their epochs to the parent run."""
        records = (record for _, record in self.spool.read())
        history = history_of(self._known.of_kind("trial"), self._elsewhere, histories(records))
        self.log_frame(history, layout.HISTORY_FILE)
        self._append("trials", PARENT, file=str(self._write(self.trials(), layout.TRIALS_FILE)))

    def log_frame(self, frame: pd.DataFrame, name: str) -> None:
        """Attach a frame to the parent run as Parquet."""
        self.log_files(PARENT, [self._write(frame, name)])

    def log_bytes(self, content: bytes, name: str) -> None:
        """Attach a file with this content to the parent run."""
        self.outbox.mkdir(exist_ok=True)
        (self.outbox / name).write_bytes(content)
        self.log_files(PARENT, [self.outbox / name])

    def log_text(self, text: str, name: str) -> None:
        """Attach a text to the parent run."""
        self._append("text", PARENT, text=text, name=name)

    def close_parent(self, tags: Mapping[str, str], status: str) -> None:
        """The parent's last tags and its status."""
        self.tag(PARENT, tags)
        self._append("status", PARENT, status=status)

    def abandon(self) -> None:
        """Mark as waiting, or interrupted, what a driver that died left running."""
        for kind in ("trial", "confirmation"):
            for key, run in self._known.of_kind(kind).items():
                if run.tags[layout.STATE] == "running":
                    self.pause(key)
        if self._known.state(PARENT) == "running":
            self.log_trials()
            self.close_parent({layout.STATE: "interrupted"}, "KILLED")

    def knows(self, key: str) -> bool:
        """Whether the spool says anything of a run."""
        return key in self._here

    def has_ended(self, key: str) -> bool:
        """Whether the end of a run is in MLflow, or on its way there."""
        return self._known.state(key) in ENDED

    def ended(self) -> set[str]:
        """The runs of which that is so."""
        return {key for kind in ("trial", "confirmation") for key in self._known.of_kind(kind) if self.has_ended(key)}

    def open_elsewhere(self) -> dict[str, int]:
        """The runs that go on in MLflow, and of which the spool says nothing; each with its trial's number."""
        runs = {key: run for key, run in self._open_elsewhere.items() if not self.knows(key)}
        return {key: int(run.data.tags[layout.TRIAL]) for key, run in runs.items()}

    def last_metrics(self, key: str) -> dict[str, float]:
        """The last values of a run's metrics, in MLflow or on their way there."""
        return self._known.metrics(key)

    def restore(self, key: str, parameters: Mapping[str, Any]) -> bool:
        """Say again what was said of a run, where the spool that said it is lost; with the times of the first time.

        All of it comes back from the archive where the run had ended; else, what MLflow has heard of it.

        Args:
            key: The run.
            parameters: Its own.

        Returns:
            Whether its end is known now.

        Raises:
            OSError: The archive cannot be read.
        """
        if self.has_ended(key):
            self._ended_elsewhere.add(key)
            return True
        self.restored.add(key)
        records = self._archive.find(key, redacted_values(_texts(parameters)))
        if not records and not self.knows(key) and key in self._open_elsewhere:
            records = heard.records_of(self.client, key, self._open_elsewhere[key])
        for record in records:
            self._tell(record)
        return self.has_ended(key)

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
        for key in self._ended_elsewhere - self._here:
            known[key] = Recalled(end={"tags": self._known.tags(key), "metrics": self.last_metrics(key)})
        return known

    def trials(self) -> pd.DataFrame:
        """A row a trial as it is now, whether MLflow has heard of it or not."""
        return trials_frame(self._known.of_kind("trial").values())

    def confirmations(self) -> pd.DataFrame:
        """A row a confirmation that is done."""
        return confirmations_frame(self._known.of_kind("confirmation").values())

    def drain(self) -> None:
        """Wait until everything handed over so far is in MLflow.

        Raises:
            StudyError: The server stays away.
        """
        if not self.uploader.drain(PATIENCE_SECONDS):
            raise self.away()

    def away(self) -> StudyError:
        """What to say where the server stays away."""
        return StudyError(
            f"MLflow at {self.client.tracking_uri} is away; {self.uploader.waiting():,} records wait in "
            f"{self.spool.path} and are lost to nobody"
        )

    def require_accepted(self) -> None:
        """Nothing where MLflow took all that it was given.

        Raises:
            StudyError: It refused something for good.
        """
        errors = self.uploader.errors
        if errors:
            raise StudyError(f"MLflow refused {len(errors)} records; the first: {errors[0]}")

    def close(self) -> None:
        """End the uploading; what is not uploaded yet stays in the spool for the next time."""
        self.uploader.close()
        self._held.release()

    def _append(self, operation: str, key: str, **content: Any) -> None:
        self._tell(self._record(operation, key, **content))

    def _record(self, operation: str, key: str, **content: Any) -> Record:
        # What files are called has to stay.
        told = {word: value if word in PLACES else redacted_values(value) for word, value in content.items()}
        return {"op": operation, "run": key, "time_ms": time.time_ns() // 10**6, **told}

    def _tell(self, record: Record, is_durable: bool = False) -> None:
        self.spool.append(record, is_durable)
        self._take(record)

    def _take(self, record: Record) -> None:
        """Know what a record of the spool says."""
        self._known.apply(record)
        self._archive.note(record)
        self._here.add(record["run"])

    def _write(self, frame: pd.DataFrame, name: str) -> Path:
        self.outbox.mkdir(exist_ok=True)
        frame.to_parquet(self.outbox / name, index=False)
        return self.outbox / name


def _texts(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {name: layout.text_value(value) for name, value in parameters.items()}
