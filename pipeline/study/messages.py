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
    """What a worker is told once, when it begins.

    Attributes:
        spec: The resolved study spec, as plain values.
        data_sha256: Fingerprint of the data that the study is about.
        folder: The study's folder, where tasks leave their files and keep their checkpoints.
        mailbox: Where the worker finds its orders.
        is_alone: Whether it has a whole device for one task, which did not fit beside others.
    """

    spec: dict[str, Any]
    data_sha256: str
    folder: str
    mailbox: str
    is_alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a worker is to do next.

    Attributes:
        start: Tasks that join what it trains.
        stop: Keys of tasks that end early.
        is_over: Whether it may leave; nothing more will come.
    """

    start: list[Task] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    is_over: bool = False


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


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """What a worker says about once a second.

    Attributes:
        seats: How many tasks it can train at once.
        tasks: What became of each task that it has, by keys.
        is_leaving: Whether this is its last word, as its node is being taken away; its tasks are saved.
    """

    seats: int
    tasks: dict[str, TrialReport] = field(default_factory=dict)
    is_leaving: bool = False
