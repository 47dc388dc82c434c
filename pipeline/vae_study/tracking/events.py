"""What a driver sends to tracking: an event for each change of a run, and the runs as all events have left them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd

from vae_study.tracking import schema
from vae_study.tracking.record import EpochRecord, RunRecord, history_frame

# The parent run's key.
PARENT = ""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 10**6


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a run.

    Attributes:
        run: The run's key within the study, such as "trial-0007"; by default the study's own run.
        time_ms: When, since 1970. It is made once, so that a replay of the event writes the same point.
        op: The kind of the event in the journal.
    """

    op: ClassVar[str]
    run: str = PARENT
    time_ms: int = field(default_factory=now_ms)

    def plain(self) -> dict[str, Any]:
        """The event as JSON values."""
        return {"op": self.op, **vars(self)}


@dataclass(frozen=True, kw_only=True)
class StudyBegun(Event):
    """A driver starts or resumes the study. From this event, another tracking store can create the parent run."""

    op = "study"
    experiment: str
    name: str
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class DataDescribed(Event):
    """The data summary, which MLflow's UI shows as a dataset."""

    op = "data"
    summary: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run is created or reopened; its parameters are text, as MLflow keeps them."""

    op = "start"
    name: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class EpochsLogged(Event):
    """Some epochs of a run, in order."""

    op = "epochs"
    epochs: Sequence[EpochRecord]

    def plain(self) -> dict[str, Any]:
        """The event as JSON values; an epoch is a list, since this is the bulk of a journal."""
        rows = [[one.epoch, one.timestamp_ms, one.metrics] for one in self.epochs]
        return {"op": self.op, "run": self.run, "time_ms": self.time_ms, "epochs": rows}


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """The end of a run of trial `number`: what was measured once, its state and other tags, why it failed."""

    op = "end"
    number: int
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class TagsSet(Event):
    """Tags of a run."""

    op = "tags"
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class StatusSet(Event):
    """The status that MLflow shows of a run."""

    op = "status"
    status: str


@dataclass(frozen=True, kw_only=True)
class FilesLogged(Event):
    """Local files to attach to a run; they must stay where they are until they are uploaded."""

    op = "files"
    files: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TrialsLogged(Event):
    """The local Parquet file of all trials, to attach to the parent run once the ids of their runs are known."""

    op = "trials"
    file: str


@dataclass(frozen=True, kw_only=True)
class TextLogged(Event):
    """A text to attach to a run as a file."""

    op = "text"
    text: str
    name: str


@dataclass(frozen=True, kw_only=True)
class ModelLogged(Event):
    """A model to attach to a run.

    Attributes:
        name: The model's name, unique within the study: "trial-0007", or an ensemble's.
        folder: The local folder that `code.write_pyfunc` wrote; it must stay where it is until it is uploaded.
        about: `tags` (text by name) and `metrics` (names of the run's metrics that are shown beside the model).
    """

    op = "model"
    name: str
    folder: str
    about: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChampionChosen(Event):
    """The study chose the model `name` by a rule, to be registered; `note` describes it in the registry."""

    op = "champion"
    name: str
    rule: str
    note: str


KINDS: dict[str, type[Event]] = {kind.op: kind for kind in Event.__subclasses__()}


def parsed(plain: Mapping[str, Any]) -> Event:
    """The event that `Event.plain` gave."""
    content = dict(plain)
    kind = KINDS[content.pop("op")]
    if kind is EpochsLogged:
        content["epochs"] = [EpochRecord(epoch=e, timestamp_ms=t, metrics=m) for e, t, m in content["epochs"]]
    return kind(**content)


class Projection:
    """The state of every run after all events so far, whether they have reached MLflow or not."""

    def __init__(self, runs: Mapping[str, RunRecord]):
        """Start from the runs that MLflow has, by their keys."""
        self._runs = dict(runs)

    def apply(self, event: Event) -> None:
        """Change the event's run."""
        run = self._runs.setdefault(event.run, RunRecord())
        if isinstance(event, RunStarted):
            run.params |= event.parameters
            run.tags |= {**event.tags, schema.STATE: "running"}
        elif isinstance(event, EpochsLogged):
            for epoch in event.epochs:
                run.metrics |= epoch.metrics
        elif isinstance(event, RunEnded):
            run.metrics |= event.metrics
            run.tags |= event.tags
        elif isinstance(event, TagsSet | StudyBegun):
            run.tags |= event.tags

    def run(self, key: str) -> RunRecord:
        """A run; without tags, parameters and metrics if it has no event yet."""
        return self._runs.get(key, RunRecord())

    def of_kind(self, kind: str) -> dict[str, RunRecord]:
        """The runs that are trials, or confirmations, by their keys; in the order of their numbers and seeds."""
        chosen = [(key, run) for key, run in self._runs.items() if run.tags.get(schema.KIND) == kind]
        return dict(sorted(chosen, key=lambda pair: pair[1].order))


def histories(events: Iterable[Event]) -> dict[str, pd.DataFrame]:
    """The histories of the runs that have ended, by their keys: one row per epoch."""
    ended: dict[str, pd.DataFrame] = {}
    open_runs: dict[str, dict[int, Mapping[str, float]]] = {}
    for event in events:
        if isinstance(event, RunStarted):
            ended.pop(event.run, None)
        elif isinstance(event, EpochsLogged):
            open_runs.setdefault(event.run, {}).update({one.epoch: one.metrics for one in event.epochs})
        elif isinstance(event, RunEnded):
            ended[event.run] = history_frame(event.number, open_runs.pop(event.run, {}))
    return ended
