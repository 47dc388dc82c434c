"""Writes a study's events to its journal, without waiting for MLflow, and knows the state of its runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from vae_study.errors import LONGEST_REASON, StudyError, redacted_values
from vae_study.storage import Folder, words_of
from vae_study.tracking import events as ev
from vae_study.tracking import schema
from vae_study.tracking.events import PARENT, Event, Projection
from vae_study.tracking.journal import JOURNAL_FILE, PATHS, Journal, Plain, TrialLogs, locked
from vae_study.tracking.reader import downloaded_histories, events_of_open_run, has_ended, remote_state
from vae_study.tracking.record import EpochRecord, confirmations_frame, joined, trials_frame
from vae_study.tracking.store import run_record
from vae_study.tracking.uploader import Uploader

OUTBOX = "outbox"
PATIENCE_SECONDS = 30.0
# Fields of events that are not redacted: the paths among them have to stay as they are.
NOT_REDACTED = ("op", "run", "time_ms", *PATHS)
RUN_KINDS = ("trial", "confirmation")


@dataclass
class Recalled:
    """What earlier drivers have logged of a run.

    Attributes:
        epochs: In order; of a run that has ended, only the last one.
        end: None while it has not ended.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    end: ev.RunEnded | None = None


class TrackingWriter:
    """Writes a study's runs: the parent, and a child for each trial.

    Attributes:
        restored: The runs whose events were restored from a trial's log or from MLflow.
    """

    def __init__(
        self,
        client: MlflowClient,
        parent: Run,
        child_runs: Mapping[str, Run],
        folder: Path,
        trial_folders: Folder | None = None,
    ):
        """Start writing below a parent run.

        Args:
            client: Of the tracking store.
            parent: The study's run.
            child_runs: The runs that it has already, by their keys.
            folder: On a local disk, for the journal and for files that are not uploaded yet.
            trial_folders: Has a folder for each run that outlasts that disk, for its log.

        Raises:
            UserError: Another process writes there.
        """
        self.client, self.parent_id, self.outbox = client, parent.info.run_id, folder / OUTBOX
        self._lock = locked(folder)
        self.journal = Journal(folder / JOURNAL_FILE)
        about = {tag: parent.data.tags.get(tag) for tag in (schema.CONFIG_SHA, schema.DATA_SHA)}
        self._logs = TrialLogs(trial_folders, about, self.journal)
        self._open_remotely = {key: run for key, run in child_runs.items() if not has_ended(run)}
        remote = {key: remote_state(run) for key, run in child_runs.items()}
        self._runs = Projection({PARENT: run_record(parent), **remote})
        # Runs that the journal has from their start on. Where it was lost, a later tag of a run may be all that it has.
        self._in_journal: set[str] = set()
        self.restored: set[str] = set()
        start = 0
        for end, plain in self.journal.read():
            self._take(plain, start)
            start = end
        missing = {key: run for key, run in child_runs.items() if key not in self._in_journal and has_ended(run)}
        # Histories of trials that a driver on another machine has logged.
        self._remote_histories = downloaded_histories(client, missing)
        run_ids = {key: run.info.run_id for key, run in child_runs.items()}
        self.uploader = Uploader(client, parent, run_ids, self.journal)

    def log(self, event: Event) -> None:
        """Append an event, without secrets. The end of a run also survives a crash of the machine."""
        plain = event.plain()
        plain |= redacted_values({name: value for name, value in plain.items() if name not in NOT_REDACTED})
        is_end = isinstance(event, ev.RunEnded)
        if is_end:
            self._logs.write(plain)
        self._write(plain, is_durable=is_end)

    def start(self, key: str, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Create or reopen the run that has this key within the study."""
        self.log(ev.RunStarted(run=key, name=name, parameters=_texts(parameters), tags=dict(tags)))

    def log_epochs(self, key: str, epochs: Sequence[EpochRecord]) -> None:
        """Log the metrics of some epochs; a metric's step is the epoch."""
        if epochs:
            self.log(ev.EpochsLogged(run=key, epochs=epochs))

    def log_curves(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the study's own metrics after the end of the `step`-th trial."""
        self.log_epochs(PARENT, [EpochRecord(epoch=step, timestamp_ms=ev.now_ms(), metrics=dict(metrics))])

    def curve_step(self) -> int:
        """The last step of the study's curves."""
        metrics = self._runs.run(PARENT).metrics
        return int(sum(metrics.get(f"study/{state}", 0.0) for state in schema.ENDED))

    def end(
        self,
        key: str,
        number: int,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        error: str | None = None,
    ) -> None:
        """Close a run of trial `number` with its final metrics, its state and other tags.

        After this call the end survives a crash of the machine, so the study store may record the trial as ended.
        """
        self.log(ev.RunEnded(run=key, number=number, metrics=dict(metrics), tags=dict(tags), error=error))

    def pause(self, key: str) -> None:
        """Mark a run that a later driver will continue."""
        self.tag(key, {schema.STATE: "waiting"})
        self.log(ev.StatusSet(run=key, status="SCHEDULED"))

    def tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self.log(ev.TagsSet(run=key, tags=dict(tags)))

    def log_files(self, key: str, files: Sequence[Path]) -> None:
        """Attach local files to a run; they must stay where they are until they are uploaded."""
        self.log(ev.FilesLogged(run=key, files=[str(file) for file in files]))

    def log_trials(self) -> None:
        """Attach the frames of all trials and of their epochs to the parent run."""
        logged = ev.histories(ev.parsed(plain) for _, plain in self.journal.read())
        histories = self._remote_histories | logged
        trials = self._runs.of_kind("trial")
        self.log_frame(joined([histories[key] for key in trials if key in histories]), schema.HISTORY_FILE)
        self.log(ev.TrialsLogged(file=str(self._parquet(self.trials(), schema.TRIALS_FILE))))

    def log_frame(self, frame: pd.DataFrame, name: str, key: str = PARENT) -> None:
        """Attach a frame to a run, by default the parent's, as Parquet."""
        self.log_files(key, [self._parquet(frame, name)])

    def log_bytes(self, content: bytes, name: str) -> None:
        """Attach a file with this content to the parent run."""
        self.outbox.mkdir(exist_ok=True)
        (self.outbox / name).write_bytes(content)
        self.log_files(PARENT, [self.outbox / name])

    def close_parent(self, tags: Mapping[str, str], status: str) -> None:
        """Set the parent's last tags and its status."""
        self.tag(PARENT, tags)
        self.log(ev.StatusSet(status=status))

    def abandon(self) -> None:
        """Mark what a dead driver left running: its trials as waiting, the study as interrupted."""
        for kind in RUN_KINDS:
            for key, run in self._runs.of_kind(kind).items():
                if run.tags[schema.STATE] == "running":
                    self.pause(key)
        if self._state(PARENT) == "running":
            self.log_trials()
            self.close_parent({schema.STATE: "interrupted"}, "KILLED")

    def knows(self, key: str) -> bool:
        """Whether the journal has a run from its start on."""
        return key in self._in_journal

    def has_ended(self, key: str) -> bool:
        """Whether a run has ended; MLflow may not have its end yet."""
        return self._state(key) in schema.ENDED

    def ended(self) -> set[str]:
        """The runs that have ended."""
        return {key for kind in RUN_KINDS for key in self._runs.of_kind(kind) if self.has_ended(key)}

    def open_remotely(self) -> dict[str, int]:
        """The numbers of the trials whose runs are open in MLflow and not in the journal, by the runs' keys."""
        runs = {key: run for key, run in self._open_remotely.items() if not self.knows(key)}
        return {key: int(run.data.tags[schema.TRIAL]) for key, run in runs.items()}

    def last_metrics(self, key: str) -> dict[str, float]:
        """The last values of a run's metrics; MLflow may not have them yet."""
        return self._runs.run(key).metrics

    def restore(self, key: str, parameters: Mapping[str, Any]) -> bool:
        """Append the events of a run again, with their first times, if the journal that had them is lost.

        If the run had ended, all events come from the log in the trial's folder; else those that MLflow has.

        Args:
            key: The run.
            parameters: Its own.

        Returns:
            Whether it has ended.

        Raises:
            OSError: The trial's folder cannot be read.
        """
        if self.has_ended(key):
            return True
        self.restored.add(key)
        events = self._logs.find(key, redacted_values(_texts(parameters)))
        if not events and not self.knows(key) and key in self._open_remotely:
            events = [event.plain() for event in events_of_open_run(self.client, key, self._open_remotely[key])]
        for plain in events:
            self._write(plain)
        return self.has_ended(key)

    def recall(self) -> dict[str, Recalled]:
        """What this driver and earlier ones have logged of every run."""
        recalled: dict[str, Recalled] = {}
        for _, plain in self.journal.read():
            event = ev.parsed(plain)
            run = recalled.setdefault(event.run, Recalled())
            if isinstance(event, ev.RunStarted) and run.end:
                recalled[event.run] = Recalled()
            elif isinstance(event, ev.EpochsLogged):
                run.epochs += event.epochs
            elif isinstance(event, ev.RunEnded):
                run.end, run.epochs = event, run.epochs[-1:]
        for key in self.ended() - self._in_journal:
            known = self._runs.run(key)
            end = ev.RunEnded(run=key, time_ms=0, number=known.order[0], metrics=known.metrics, tags=known.tags)
            recalled[key] = Recalled(end=end)
        return recalled

    def trials(self) -> pd.DataFrame:
        """One row per trial in its present state, which MLflow may not have yet."""
        return trials_frame(self._runs.of_kind("trial").values())

    def confirmations(self) -> pd.DataFrame:
        """One row per finished confirmation."""
        return confirmations_frame(self._runs.of_kind("confirmation").values())

    def drain(self, show: Callable[[int], None] = lambda left: None) -> None:
        """Wait until MLflow has all records; `show` is called with the number of pending ones.

        Raises:
            StudyError: MLflow does not answer.
        """
        if not self.uploader.drain(PATIENCE_SECONDS, show):
            raise StudyError(
                f"MLflow at {self.client.tracking_uri} does not answer; {self.uploader.pending():,} records are kept "
                f"in {self.journal.path}, none is lost"
            )

    def require_accepted(self) -> None:
        """Raise StudyError if MLflow refused a record for good."""
        errors = self.uploader.errors
        if errors:
            study = self._runs.run(PARENT).tags.get(schema.STUDY, "NAME")
            raise StudyError(
                f"MLflow refused {len(errors)} records; the first: {str(errors[0])[:LONGEST_REASON]}; if somebody has "
                f"deleted runs there, make them anew: vae-study sync {words_of(study, self.outbox.parent.parent)}"
            )

    def close(self) -> None:
        """End the upload; pending records stay in the journal for the next driver."""
        self.uploader.close()
        self._lock.release()

    def _state(self, key: str) -> str | None:
        return self._runs.run(key).tags.get(schema.STATE)

    def _write(self, plain: Plain, is_durable: bool = False) -> None:
        self._take(plain, self.journal.append(plain, is_durable))

    def _take(self, plain: Plain, offset: int) -> None:
        """Apply an event that the journal has at this offset."""
        self._runs.apply(ev.parsed(plain))
        self._logs.note(plain, offset)
        if plain["op"] == ev.RunStarted.op:
            self._in_journal.add(plain["run"])

    def _parquet(self, frame: pd.DataFrame, name: str) -> Path:
        self.outbox.mkdir(exist_ok=True)
        frame.to_parquet(self.outbox / name, index=False)
        return self.outbox / name


def _texts(parameters: Mapping[str, Any]) -> dict[str, str]:
    return {name: schema.text_value(value) for name, value in parameters.items()}
