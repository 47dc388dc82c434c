"""What travels between driver and workers: plain, small objects. Data sets go by specification, never by value."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.tracking.record import EpochRecord


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One trial for a worker.

    Attributes:
        number: The trial's number in the study store.
        parameters: Its searched parameters, by canonical names.
        repeat: Which further seed it is trained with again; 0 for the trial itself.
        spec: The resolved study spec, as plain values.
        data_sha256: Fingerprint of the data that the study is about.
        folder: Where the trial leaves its files.
        workers_folder: Where the workers of this run sign in.
        workers: How many are to be up before the first trial may end.
    """

    number: int
    parameters: dict[str, Any]
    spec: dict[str, Any]
    data_sha256: str
    folder: str
    workers_folder: str
    workers: int
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """What a worker says after some epochs, and at the end of a trial.

    Attributes:
        epochs: Epochs since the last report.
        state: `running` until the last report.
        failure: Why it failed: `diverged` or `error`.
        error: The traceback of a failed trial.
        metrics: Final metrics of a finished trial, `test/...`.
    """

    epochs: list[EpochRecord]
    state: Literal["running", "finished", "failed"] = "running"
    failure: Literal["diverged", "error"] | None = None
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
