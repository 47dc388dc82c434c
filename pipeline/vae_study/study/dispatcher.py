"""What all dispatchers have in common, and that of the confirmation, in the driver's process.

A dispatcher hands out tasks and takes the workers' reports: it decides which continue, which start again elsewhere
and which have failed, and writes all of it to tracking.
"""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from vae_study.config.study import StudyConfig
from vae_study.study.finalists import Retention
from vae_study.study.messages import KL_WEIGHT, Failure, Task, TrialReport
from vae_study.study.progress import Progress
from vae_study.tracking import schema
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.writer import Recalled, TrackingWriter

# After this many worker deaths at the same epoch, a trial fails, or is tried once on a device of its own.
MOST_DEATHS = 3


def start_run(tracking: TrackingWriter, task: Task, device: str = "") -> None:
    """Create or reopen a task's run; `device` is what it is going to be trained on, if that is known."""
    name, tags = schema.trial_run_name(task.number, task.parameters), {schema.TRIAL: str(task.number)}
    if task.repeat:
        name = f"t{task.number:03d} seed {task.repeat}"
        tags |= {schema.KIND: "confirmation", schema.SEED: str(task.repeat)}
    else:
        tags |= {schema.KIND: "trial", schema.SAMPLER: task.sampler}
        origin = {tag: getattr(task, field) for field, tag in schema.OF_SWEEPS.items()}
        tags |= {tag: str(number) for tag, number in origin.items() if number is not None}
    tracking.start(task.key, name, task.parameters, tags | ({schema.DEVICE: device} if device else {}))


def end_tags(report: TrialReport) -> dict[str, str]:
    """The tags of a run that say how it ended."""
    tags: dict[str, str] = {schema.STATE: report.state}
    if report.failure:
        tags |= {schema.FAILURE: report.failure, schema.REASON: report.reason[:500]}
    return tags


def last_tags(config: StudyConfig, report: TrialReport, metrics: Mapping[str, float]) -> dict[str, str]:
    """The tags of a trial's run that say how it ended, and whether it keeps the constraints."""
    feasible = {schema.FEASIBLE: str(config.is_feasible(metrics)).lower()} if config.constraints else {}
    return end_tags(report) | feasible


def as_report(known: Recalled) -> TrialReport:
    """The last report of a trial, from the journal of an earlier driver that died before it updated the study store."""
    assert known.end is not None
    tags = known.end.tags
    return TrialReport(
        state=cast(Any, tags[schema.STATE]),
        failure=cast(Failure | None, tags.get(schema.FAILURE)),
        error=tags.get(schema.REASON),
        metrics=dict(known.end.metrics),
    )


class Dispatcher(ABC):
    """What the search and the confirmation have in common.

    Attributes:
        open: The tasks that are handed out and have not ended, by their keys; some may wait for another worker.
        display: Where it is shown how far they are.
    """

    display: Progress

    def __init__(self, tracking: TrackingWriter, recalled: Mapping[str, Recalled]):
        self.tracking, self.recalled = tracking, recalled
        self.open: dict[str, Task] = {}
        # Of a task's epochs but the last one only what `kl_weights_of` asks for: their metrics are in the journal.
        self._histories: dict[str, list[EpochRecord]] = {}
        self._again: deque[Task] = deque()
        self._exclusive: deque[Task] = deque()
        # After which epoch a worker was lost; None if it had saved the task and left.
        self._deaths: defaultdict[str, list[int | None]] = defaultdict(list)
        self._running: set[str] = set()
        self._devices: dict[str, str] = {}

    @abstractmethod
    def _fresh(self) -> Task | None:
        """The next task that was not handed out yet; None if there is none, or none yet."""

    @abstractmethod
    def _has_fresh(self) -> bool:
        """Whether `_fresh` has more to come."""

    @abstractmethod
    def _close(self, task: Task, report: TrialReport, history: Sequence[EpochRecord]) -> None:
        """Write down a task's end."""

    def _continues(self, task: Task, history: Sequence[EpochRecord]) -> bool:
        """Whether a task continues after its last epoch, by the rule of early stopping."""
        return True

    def _preempted(self, task: Task) -> int:
        """Count that a task lost its worker, and return how often it has."""
        return len(self._deaths[task.key])

    def propose(self, device: str = "") -> Task | None:
        """The next task, if one is ready: one that lost its worker, then a new one, and at the end an exclusive one.

        Args:
            device: What it is going to be trained on, if that is known.
        """
        task = self._again.popleft() if self._again else self._fresh()
        others_are_done = not self._has_fresh() and all(self.open[key].is_exclusive for key in self._running)
        if task is None and self._exclusive and others_are_done:
            task = self._exclusive.popleft()
        if task is not None:
            self._begin(task, device)
        return task

    def has_waiting(self) -> bool:
        """Whether there are tasks that no worker has."""
        return bool(self._again or self._exclusive or self._has_fresh())

    def progress(self, key: str, epochs: Sequence[EpochRecord]) -> bool:
        """Take some epochs of a running task, some of which may be known; return False if it is to be pruned."""
        task, history = self.open[key], self._histories[key]
        known, continues = len(history), True
        for record in epochs:
            if history and record.epoch <= history[-1].epoch:
                continue
            history.append(record)
            continues = self._continues(task, history)
            if not continues:
                break
        self.tracking.log_epochs(key, history[known:])
        _slim(history, max(known - 1, 0))
        return continues

    def end(self, key: str, report: TrialReport) -> None:
        """Take a task's last report. One that ran out of memory beside others is tried again with a whole device."""
        if report.state != "pruned":
            self.progress(key, report.epochs)
        task = self.open[key]
        if report.failure == "out_of_memory" and not task.is_exclusive:
            self._running.discard(key)
            self._exclusive.append(replace(task, is_exclusive=True))
            return
        self._finish(task, report)

    def lost(self, key: str, why: str, co_located: bool = False) -> None:
        """Note that a task's worker, or its node, died.

        Args:
            key: The task.
            why: What Ray says about it.
            co_located: Whether the worker had other tasks as well, any of which may have been the reason.
        """
        if "OutOfMemory" in why:
            return self.end(key, TrialReport(state="failed", failure="out_of_memory", error=why))
        task, epoch = self.open[key], len(self._histories[key])
        self._deaths[key].append(epoch)
        self._note_preemption(key)
        is_hopeless = Counter(self._deaths[key])[epoch] >= MOST_DEATHS
        if is_hopeless and not co_located:
            error = f"{why}\nthe worker died {MOST_DEATHS} times after epoch {epoch}, without progress"
            return self._finish(task, TrialReport(state="failed", failure="preempted", error=error))
        self._running.discard(key)
        if is_hopeless:
            self._exclusive.append(replace(task, is_exclusive=True))
        else:
            self._again.append(task)

    def handed_back(self, key: str) -> None:
        """Note that a task's worker saved it and left because its node is being taken away."""
        self._deaths[key].append(None)
        self._note_preemption(key)
        self._running.discard(key)
        self._again.append(self.open[key])

    def placed(self, key: str, device: str) -> None:
        """Note what an open task is trained on from now on."""
        if device and self._devices.get(key) != device:
            self._devices[key] = device
            self.tracking.tag(key, {schema.DEVICE: device})

    def pause(self) -> None:
        """Mark the open tasks as waiting for a later driver."""
        for key in self.open:
            self.tracking.pause(key)

    def _begin(self, task: Task, device: str) -> None:
        if task.key not in self.open:
            known = self.recalled.get(task.key)
            self._histories[task.key] = list(known.epochs) if known else []
            _slim(self._histories[task.key])
            start_run(self.tracking, task, device)
            self._devices[task.key] = device
        self.open[task.key] = task
        self._running.add(task.key)

    def _finish(self, task: Task, report: TrialReport) -> None:
        self._close(task, report, self._histories.pop(task.key))
        self._running.discard(task.key)
        del self.open[task.key], self._devices[task.key]

    def _note_preemption(self, key: str) -> None:
        self.tracking.tag(key, {schema.PREEMPTIONS: str(self._preempted(self.open[key]))})


def _slim(history: list[EpochRecord], first: int = 0) -> None:
    """Drop the metrics of all epochs but the last, from the index `first` on; the KL weight stays."""
    for index in range(first, len(history) - 1):
        metrics = history[index].metrics
        history[index] = replace(history[index], metrics={name: metrics[name] for name in metrics if name == KL_WEIGHT})


class ConfirmationDispatcher(Dispatcher):
    """Hands out the repeats of the best trials with further seeds. The study store does not know of them."""

    def __init__(
        self,
        tasks: Sequence[Task],
        tracking: TrackingWriter,
        recalled: Mapping[str, Recalled],
        progress: Progress,
        retention: Retention,
    ):
        """Prepare to hand out the tasks in their order."""
        super().__init__(tracking, recalled)
        self.display, self.retention = progress, retention
        self.waiting, self.total, self.done = deque(tasks), len(tasks), 0
        self._show()

    def _fresh(self) -> Task | None:
        return self.waiting.popleft() if self.waiting else None

    def _has_fresh(self) -> bool:
        return bool(self.waiting)

    def _close(self, task: Task, report: TrialReport, history: Sequence[EpochRecord]) -> None:
        self.tracking.end(task.key, task.number, report.news(history), end_tags(report), report.error)
        self.retention.drop_checkpoints(task.key)
        self.done += 1
        self._show()

    def _show(self) -> None:
        self.display.after_search(self.done, self.total, "confirmations", "the best again with further seeds")
