"""The messages between driver and workers, and the control channel that brings commands to a worker.

All are plain and small: a data set is given by its config and its fingerprint, and never sent. Workers report through
Ray Tune, which has no way to send them commands.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vae_study.config.study import StudyConfig
from vae_study.search.early_stopping import rungs
from vae_study.study import ray_compat
from vae_study.tracking.record import EpochRecord

Failure = Literal["diverged", "out_of_memory", "error", "preempted"]
KL_WEIGHT = "train/kl_weight"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial, or a repeat of one, that a worker is to train.

    Attributes:
        key: Its name in folders, in Tune and in the tracking store, such as "trial-0007".
        number: The trial's number in the study store.
        parameters: Its searched parameters, by canonical names.
        repeat: The number of the further seed that it is trained with; 0 for the trial itself.
        is_exclusive: Whether it gets a whole device, because it ran out of memory beside others.
        sampler: Where its parameters came from.
        points: Of a sweep: the numbers of the trials that its kept models become, in the order of their betas.
        sweep: The number of the sweep that this trial was kept of; None for all others.
        retrains: The number of the trial whose model this one trains again; None for all others.
    """

    key: str
    number: int
    parameters: dict[str, Any]
    repeat: int = 0
    is_exclusive: bool = False
    sampler: str = ""
    points: list[int] = field(default_factory=list)
    sweep: int | None = None
    retrains: int | None = None


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker gets when it starts.

    Attributes:
        config: The resolved study config, as plain values.
        data_sha256: Fingerprint of the study's data.
        folder: The study's folder, for results and checkpoints.
        channel: Has the worker's commands.
        is_exclusive: Whether it has a whole device for one exclusive task.
    """

    config: dict[str, Any]
    data_sha256: str
    folder: str
    channel: str
    is_exclusive: bool = False


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The next commands to a worker.

    Attributes:
        start: Tasks to train, beside those that it has.
        stop: Keys of tasks to prune.
        is_over: Whether the worker is to end.
        pace_seconds: The least time from one report to the next from now on, since many workers report to one driver;
            None leaves it as it is.
    """

    start: list[Task] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    is_over: bool = False
    pace_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """A report on a trial: from its worker after some epochs and at the end, or from the driver if the worker died.

    Attributes:
        epochs: Epochs since the last report; after a restart, all of them.
        state: `running` until the last report; `pruned` by early stopping.
        failure: Why it failed.
        error: The traceback, or another reason, of a failed trial.
        metrics: Final metrics of a finished trial, `test/...`.
        points: Of a finished sweep: the metrics of each of the task's `points`, those of validation included.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    state: Literal["running", "finished", "pruned", "failed"] = "running"
    failure: Failure | None = None
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    points: list[dict[str, float]] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """The last line of the error, which says most."""
        lines = (self.error or "").strip().splitlines()
        return lines[-1] if lines else ""

    def last_metrics(self, history: Sequence[EpochRecord]) -> dict[str, float]:
        """The trial's metrics at its end: those of its last epoch and the final ones."""
        return {**(history[-1].metrics if history else {}), **self.metrics}

    def news(self, history: Sequence[EpochRecord]) -> dict[str, float]:
        """The final metrics without those that the last epoch has already: MLflow would have their points twice."""
        last = history[-1].metrics if history else {}
        return {name: value for name, value in self.metrics.items() if last.get(name) != value}


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """What a worker reports about once a second.

    Attributes:
        slots: How many tasks it can train at once.
        tasks: A report on each of its tasks, by keys.
        is_leaving: Whether this is its last report because its node is draining; its tasks are saved.
        device: What it trains on, such as "cuda, NVIDIA L4".
        problem: Why no worker can train on a node such as its own; the study has to end.
    """

    slots: int
    tasks: dict[str, TrialReport] = field(default_factory=dict)
    is_leaving: bool = False
    device: str = ""
    problem: str = ""


def new_channels() -> str:
    """The common prefix of the control channels of a run's workers; each adds a slash and a name."""
    return f"vae-study/{uuid.uuid4().hex}"


def post(channel: str, commands: Commands) -> None:
    """Send a worker its next commands. Send no others before it has reported again."""
    ray_compat.put(channel, json.dumps(asdict(commands)).encode())


def collect(channel: str) -> Commands:
    """A worker's new commands, if there are any."""
    plain = json.loads(ray_compat.take(channel) or b'{"start": []}')
    return Commands(**{**plain, "start": [Task(**task) for task in plain["start"]]})


def rungs_of(config: StudyConfig, task: Task) -> tuple[int, ...]:
    """The epochs at which a task may be pruned; a repeat never is. The worker reports there, and the driver decides."""
    return () if task.repeat else rungs(config.early_stopping, config.trial(task.parameters).training.epochs)


def kl_weights_of(history: Sequence[EpochRecord]) -> Iterator[tuple[int, float]]:
    """Each epoch with its mean KL weight, the last one first; 1 for a family that has none."""
    return ((record.epoch, record.metrics.get(KL_WEIGHT, 1.0)) for record in reversed(history))
