"""What travels between driver and workers: plain, small objects. Data sets go by specification, never by value."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.tracking.record import EpochRecord

Failure = Literal["diverged", "out_of_memory", "error", "preempted"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be trained.

    Attributes:
        key: Its name in folders, in Tune and in the tracking store, such as "trial-0007".
        number: The trial's number in the study store.
        parameters: Its searched parameters, by canonical names.
        repeat: Which further seed it is trained with again; 0 for the trial itself.
        is_alone: Whether it gets a whole device, since it did not fit beside others.
        sampler: Where its parameters came from.
    """

    key: str
    number: int
    parameters: dict[str, Any]
    repeat: int = 0
    is_alone: bool = False
    sampler: str = ""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One task for a worker.

    Attributes:
        task: What to train.
        spec: The resolved study spec, as plain values.
        data_sha256: Fingerprint of the data that the study is about.
        folder: The study's folder, where the task leaves its files and keeps its checkpoints.
        roster: Where the workers of this run sign in.
        workers: How many have to be up before a short trial may end.
    """

    task: Task
    spec: dict[str, Any]
    data_sha256: str
    folder: str
    roster: str
    workers: int


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """What becomes of a trial: what a worker says after some epochs and at the end, or the driver in its place.

    Attributes:
        epochs: Epochs since the last report; after a restart, all of them.
        state: `running` until the last report; `stopped` by the rule that stops trials early.
        failure: Why it failed.
        error: The traceback, or another reason, of a failed trial.
        metrics: Final metrics of a finished trial, `test/...`.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    state: Literal["running", "finished", "stopped", "failed"] = "running"
    failure: Failure | None = None
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """The last line of the error, which says most."""
        lines = (self.error or "").strip().splitlines()
        return lines[-1] if lines else ""
