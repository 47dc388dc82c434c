"""The dispatchers of the search and of the confirmation after it, in the driver's process.

A dispatcher hands out tasks and takes the workers' reports: it decides which continue, which start again elsewhere
and which have failed, and writes all of it to tracking. The search's also updates the study store.
"""

import math
import re
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vae_study.errors import TrialsFailed
from vae_study.search.early_stopping import due
from vae_study.search.study_store import StudyStore, with_last_beta
from vae_study.study.finalists import Retention
from vae_study.study.messages import (
    KL_WEIGHT,
    Task,
    TrialReport,
    as_report,
    end_tags,
    kl_weights_of,
    last_tags,
    rungs_of,
    start_run,
)
from vae_study.study.prefetch import Prefetcher
from vae_study.study.progress import Progress, StudyCurves, log10_parameters
from vae_study.study.session import Enough, Shutdown
from vae_study.tracking import schema
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.schema import trial_name
from vae_study.tracking.writer import Recalled, TrackingWriter

# After this many worker deaths at the same epoch, a trial fails, or is tried once on a device of its own.
MOST_DEATHS = 3
# If this many of the first trials fail in the same way, the others would too.
ALIKE = 3
SECONDS_BETWEEN_SHOWS = 1.0


class Dispatcher(ABC):
    """What the search and the confirmation have in common.

    Attributes:
        open: The tasks that are handed out and have not ended, by their keys; some may wait for another worker.
    """

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


class SearchDispatcher(Dispatcher):
    """Hands out the trials of the search.

    The study store learns last that a trial has ended: then the journal has it on disk already.
    """

    def __init__(
        self,
        store: StudyStore,
        tracking: TrackingWriter,
        recalled: Mapping[str, Recalled],
        progress: Progress,
        retention: Retention,
        shutdown: Shutdown,
        at_once: int,
        curves: StudyCurves,
    ):
        super().__init__(tracking, recalled)
        self.store, self.display, self.retention = store, progress, retention
        self.shutdown, self.curves = shutdown, curves
        self._rungs: dict[str, tuple[int, ...]] = {}
        self._first: list[int] = []
        self._shown, self._flat_since = -math.inf, store.flat_since()
        self.prefetcher = Prefetcher(store.ask, lambda: store.ask(at_random=True), store.remaining(), at_once)

    def _fresh(self) -> Task | None:
        while (proposal := self.prefetcher.take()) is not None:
            task = Task(
                key=trial_name(proposal.number),
                number=proposal.number,
                parameters=with_last_beta(self.store.config, proposal.parameters),
                sampler=proposal.sampler,
            )
            kept = [*self.store.config.trial(task.parameters).kept_betas().items()]
            if kept:
                # The last of its models is the trial itself.
                task = replace(task, points=self.store.reserve(task.number, dict(kept[:-1])))
            known = self.recalled.get(task.key)
            if known is None or known.end is None:
                self.show()
                return task
            report = as_report(known)
            # The journal has the ends of its kept models before its own.
            recalled = {number: self.recalled.get(trial_name(number)) for number in task.points}
            ends = {number: as_report(point) for number, point in recalled.items() if point and point.end}
            self._tell_sweep(task, report, report.last_metrics(known.epochs), ends)
            self.retention.drop_checkpoints(task.key)
        return None

    def _has_fresh(self) -> bool:
        return self.prefetcher.has_more()

    def progress(self, key: str, epochs: Sequence[EpochRecord]) -> bool:
        """As in the confirmation; the progress line shows it."""
        continues = super().progress(key, epochs)
        self.show()
        return continues

    def _continues(self, task: Task, history: Sequence[EpochRecord]) -> bool:
        if task.key not in self._rungs:
            self._rungs[task.key] = rungs_of(self.store.config, task)
        rung = due(self._rungs[task.key], kl_weights_of(history))
        if rung is None:
            return True
        return self.store.should_continue(task.number, rung, history[-1].metrics, is_late=rung < history[-1].epoch)

    def _preempted(self, task: Task) -> int:
        return self.store.count_preemption(task.number)

    def _close(self, task: Task, report: TrialReport, history: Sequence[EpochRecord]) -> None:
        metrics = report.last_metrics(history)
        report = self._checked(report, metrics)
        kept = zip(task.points, report.points, strict=report.state == "finished")
        points = {number: self._close_kept(task, number, one) for number, one in kept}
        self._log_end(task, report, report.news(history), metrics)
        values = self.curves.add(report.state, metrics, self.store.config.is_feasible(metrics))
        self.tracking.log_curves(self.curves.step, values)
        self._tell_sweep(task, report, metrics, points)
        self.retention.ended(task, report, metrics)
        self._stop_if_alike(task.number)
        self._stop_if_flat()
        self.show()

    def _log_end(
        self, task: Task, report: TrialReport, news: Mapping[str, float], metrics: Mapping[str, float]
    ) -> None:
        tags = last_tags(self.store.config, report, metrics)
        scales = log10_parameters(self.store.config.search, task.parameters)
        self.tracking.end(task.key, task.number, {**news, **scales}, tags, report.error)

    def _close_kept(self, sweep: Task, number: int, metrics: Mapping[str, float]) -> TrialReport:
        """Write down the end of a model that a sweep has kept, as that of a trial; a driver may have done so before."""
        key, parameters = trial_name(number), self.store.parameters(number)
        task = Task(key=key, number=number, parameters=parameters, sampler=sweep.sampler, sweep=sweep.number)
        report = self._checked(TrialReport(state="finished", metrics=dict(metrics)), metrics)
        if not self.tracking.has_ended(key):
            start_run(self.tracking, task, self._devices.get(sweep.key, ""))
            self._log_end(task, report, metrics, metrics)
            if report.state == "finished":
                self.curves.place(metrics, self.store.config.is_feasible(metrics))
        self.retention.ended(task, report, metrics)
        return report

    def _checked(self, report: TrialReport, metrics: Mapping[str, float]) -> TrialReport:
        """The report, or that the trial diverged if it has finished without finite objectives."""
        objectives = [objective.metric for objective in self.store.config.objectives]
        bad = [metric for metric in objectives if not math.isfinite(metrics.get(metric, math.nan))]
        if report.state != "finished" or not bad:
            return report
        return TrialReport(state="failed", failure="diverged", error=f"{', '.join(bad)} not finite at the end")

    def _tell_sweep(
        self, task: Task, report: TrialReport, metrics: Mapping[str, float], points: Mapping[int, TrialReport]
    ) -> None:
        """Tell the store of the models that a trial has kept, and then of the trial, which the best of them stands for.

        A trial that has kept none is told as it is.
        """
        for number in filter(self.store.is_open, task.points):
            failed = TrialReport(state="failed", failure=report.failure, error=report.error)
            end = points.get(number, failed)
            self._tell(number, end, end.metrics)
        every = [metrics, *(end.metrics for end in points.values() if end.state == "finished")]
        self._tell(task.number, report, self.curves.largest(every) if report.state == "finished" else metrics)

    def _tell(self, number: int, report: TrialReport, metrics: Mapping[str, float]) -> None:
        if report.state == "finished":
            self.store.finish(number, metrics)
        elif report.state == "pruned":
            self.store.stop(number, metrics)
        else:
            self.store.fail(number, report.failure or "error", report.reason)

    def _stop_if_alike(self, number: int) -> None:
        """Shut the study down if its first trials have failed alike."""
        if len(self._first) < ALIKE:
            self._first = self.store.first_numbers(ALIKE)
        if len(self._first) < ALIKE or number not in self._first:
            return
        failures = self.store.failures()[:ALIKE]
        if [failed for failed, _, _ in failures] != self._first:
            return
        kinds = {(failure, re.sub(r"\d+", "#", reason)) for _, failure, reason in failures}
        _, failure, reason = failures[0]
        # Divergence comes from a configuration, not from the setup, and may happen three times by chance.
        if len(kinds) == 1 and failure != "diverged":
            told = f"the first {ALIKE} trials failed in the same way ({failure}): {reason}"
            self.shutdown.request(TrialsFailed(told, self.retention.plan.name))

    def _stop_if_flat(self) -> None:
        """End the search if more trials would add little, by the config's `stop_when`."""
        rule = self.store.config.stop_when
        if rule.flat_for and self.curves.is_flat(rule.flat_for, rule.min_gain, self._flat_since):
            self.shutdown.request(Enough(f"stop_when: {rule.words}"))

    def show(self) -> None:
        """Update the progress line, at most once a second."""
        if time.monotonic() - self._shown < SECONDS_BETWEEN_SHOWS:
            return
        self._shown = time.monotonic()
        self.display.update(self.curves, self._under_way(), self.tracking.uploader.stalled())

    def _under_way(self) -> float:
        """The shares that the running trials have trained of their epochs, added up."""
        fixed = self.store.config.training.epochs
        # One that is just ending has no history any more, and counts as ended.
        trained = {key: len(self._histories[key]) for key in self._running & self._histories.keys()}
        return sum(
            epochs / int(self.open[key].parameters.get("training.epochs", fixed)) for key, epochs in trained.items()
        )


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
        self.display.confirm(self.done, self.total)

    def _fresh(self) -> Task | None:
        return self.waiting.popleft() if self.waiting else None

    def _has_fresh(self) -> bool:
        return bool(self.waiting)

    def _close(self, task: Task, report: TrialReport, history: Sequence[EpochRecord]) -> None:
        self.tracking.end(task.key, task.number, report.news(history), end_tags(report), report.error)
        self.retention.drop_checkpoints(task.key)
        self.done += 1
        self.display.confirm(self.done, self.total)
