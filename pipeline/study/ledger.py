"""Where tasks come from and where what happens to them is written down; all in the driver's process."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.study.messages import Task, TrialReport
from pipeline.tracking import layout
from pipeline.tracking.record import EpochRecord
from pipeline.tracking.writer import Recalled, TrackingWriter

# A trial that loses its worker so often without an epoch in between will lose the next one too.
MOST_DEATHS = 3


class Ledger(ABC):
    """What the search and the confirmation after it have in common: who runs, who goes on, who begins again.

    Attributes:
        open: The tasks that are handed out, or are to be handed out again, by their keys.
    """

    def __init__(self, tracking: TrackingWriter, recalled: Mapping[str, Recalled]):
        self.tracking, self.recalled = tracking, recalled
        self.open: dict[str, Task] = {}
        self._histories: dict[str, list[EpochRecord]] = {}
        self._again: deque[Task] = deque()
        self._alone: deque[Task] = deque()
        # After which epoch; None where the worker had saved the task and left.
        self._deaths: defaultdict[str, list[int | None]] = defaultdict(list)
        self._running: set[str] = set()

    @abstractmethod
    def _fresh(self) -> Task | None:
        """The next task; None where there is none, or none yet."""

    @abstractmethod
    def _has_fresh(self) -> bool:
        """Whether `_fresh` has more to come."""

    @abstractmethod
    def _describe(self, task: Task) -> tuple[str, dict[str, str]]:
        """The name and the tags of a task's run."""

    @abstractmethod
    def _close(self, task: Task, report: TrialReport, history: Sequence[EpochRecord]) -> None:
        """Write down a task's end."""

    def _goes_on(self, task: Task, history: Sequence[EpochRecord]) -> bool:
        """Whether a task's last epoch lets it go on."""
        return True

    def _preempted(self, task: Task) -> int:
        """Count that a task lost its worker; how often it has."""
        return len(self._deaths[task.key])

    def propose(self) -> Task | None:
        """The next task: one that lost its worker, a new one, or at the end one that did not fit beside others."""
        task = self._again.popleft() if self._again else self._fresh()
        if task is None and self._alone and not self._has_fresh() and self._running <= self._alone_running():
            task = self._alone.popleft()
        if task is not None:
            self._begin(task)
        return task

    def has_waiting(self) -> bool:
        """Whether there are tasks that nobody has."""
        return bool(self._again or self._alone or self._has_fresh())

    def progress(self, key: str, epochs: Sequence[EpochRecord]) -> bool:
        """Some epochs of a running task, some of which may be known; False where it is to be stopped."""
        task, history = self.open[key], self._histories[key]
        known, goes_on = len(history), True
        for record in epochs:
            if history and record.epoch <= history[-1].epoch:
                continue
            history.append(record)
            goes_on = self._goes_on(task, history)
            if not goes_on:
                break
        self.tracking.log_epochs(key, history[known:])
        return goes_on

    def end(self, key: str, report: TrialReport) -> None:
        """A task's last report."""
        if report.state != "stopped":
            self.progress(key, report.epochs)
        task = self.open[key]
        if report.failure == "out_of_memory" and not task.is_alone:
            self._running.discard(key)
            self._alone.append(replace(task, is_alone=True))
            return
        self._finish(task, report)

    def lost(self, key: str, why: str, in_company: bool = False) -> None:
        """A task's worker, or its node, died; with other tasks on it, any of them may have been the reason."""
        if "OutOfMemory" in why:
            return self.end(key, TrialReport(state="failed", failure="out_of_memory", error=why))
        task, epoch = self.open[key], len(self._histories[key])
        self._deaths[key].append(epoch)
        self._note_preemption(key)
        is_hopeless = Counter(self._deaths[key])[epoch] >= MOST_DEATHS
        if is_hopeless and not in_company:
            error = f"{why}\nthe worker died {MOST_DEATHS} times after epoch {epoch}, without progress"
            return self._finish(task, TrialReport(state="failed", failure="preempted", error=error))
        self._running.discard(key)
        if is_hopeless:
            self._alone.append(replace(task, is_alone=True))
        else:
            self._again.append(task)

    def handed_back(self, key: str) -> None:
        """A task's worker saved it and left, as its node is being taken away, which no task is the reason of."""
        self._deaths[key].append(None)
        self._note_preemption(key)
        self._running.discard(key)
        self._again.append(self.open[key])

    def pause(self) -> None:
        """Mark what is still open as waiting for a later driver."""
        for key in self.open:
            self.tracking.pause(key)

    def _begin(self, task: Task) -> None:
        if task.key not in self.open:
            known = self.recalled.get(task.key)
            self._histories[task.key] = list(known.epochs) if known else []
            self.tracking.start(task.key, *self._named(task))
        self.open[task.key] = task
        self._running.add(task.key)

    def _named(self, task: Task) -> tuple[str, dict[str, object], dict[str, str]]:
        name, tags = self._describe(task)
        return name, dict(task.parameters), tags

    def _finish(self, task: Task, report: TrialReport) -> None:
        self._close(task, report, self._histories.pop(task.key))
        self._running.discard(task.key)
        del self.open[task.key]

    def _note_preemption(self, key: str) -> None:
        self.tracking.tag(key, {layout.PREEMPTIONS: str(self._preempted(self.open[key]))})

    def _alone_running(self) -> set[str]:
        return {key for key in self._running if self.open[key].is_alone}


def end_tags(report: TrialReport) -> dict[str, str]:
    """How a run's tags say what became of it."""
    tags: dict[str, str] = {layout.STATE: report.state}
    if report.failure:
        tags |= {layout.FAILURE: report.failure, layout.REASON: report.reason[:500]}
    return tags
