"""The dispatchers of the search and of the models that sweeps have found and that are trained again after it."""

import math
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vae_study.errors import TrialsFailed
from vae_study.search.early_stopping import due
from vae_study.search.sampler import RETRAINED
from vae_study.search.study_store import StudyStore, with_last_beta
from vae_study.study.dispatcher import Dispatcher, as_report, last_tags, start_run
from vae_study.study.finalists import Retention
from vae_study.study.messages import Task, TrialReport, kl_weights_of, rungs_of
from vae_study.study.prefetch import Prefetcher
from vae_study.study.progress import Progress, StudyCurves, log10_parameters
from vae_study.study.session import Enough, Shutdown
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.schema import trial_name
from vae_study.tracking.writer import Recalled, TrackingWriter

# If this many of the first trials fail in the same way, the others would too.
ALIKE = 3
SECONDS_BETWEEN_SHOWS = 1.0


class TrialDispatcher(Dispatcher):
    """What the search and the trials after it have in common: a trial's end goes to tracking, and to the study store.

    The study store learns last that a trial has ended: then the journal has it on disk already.
    """

    def __init__(
        self,
        store: StudyStore,
        tracking: TrackingWriter,
        recalled: Mapping[str, Recalled],
        progress: Progress,
        retention: Retention,
        curves: StudyCurves,
    ):
        super().__init__(tracking, recalled)
        self.store, self.display, self.retention, self.curves = store, progress, retention, curves

    def _is_known(self, task: Task) -> bool:
        """Whether an earlier driver has written down a trial's end; if so, the study store is told of it."""
        known = self.recalled.get(task.key)
        if known is None or known.end is None:
            return False
        report = as_report(known)
        # The journal has the ends of its kept models before its own.
        recalled = {number: self.recalled.get(trial_name(number)) for number in task.points}
        ends = {number: as_report(point) for number, point in recalled.items() if point and point.end}
        self._tell_sweep(task, report, report.last_metrics(known.epochs), ends)
        self.retention.drop_checkpoints(task.key)
        return True

    def _preempted(self, task: Task) -> int:
        return self.store.count_preemption(task.number)

    def _log_end(
        self, task: Task, report: TrialReport, news: Mapping[str, float], metrics: Mapping[str, float]
    ) -> None:
        tags = last_tags(self.store.config, report, metrics)
        scales = log10_parameters(self.store.config.search, task.parameters)
        self.tracking.end(task.key, task.number, {**news, **scales}, tags, report.error)

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


class SearchDispatcher(TrialDispatcher):
    """Hands out the trials of the search."""

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
        super().__init__(store, tracking, recalled, progress, retention, curves)
        self.shutdown = shutdown
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
            if not self._is_known(task):
                self.show()
                return task
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


class RetrainingDispatcher(TrialDispatcher):
    """Hands out the trials that train models of sweeps again, each at its beta from beginning to end."""

    def __init__(
        self,
        numbers: Sequence[int],
        store: StudyStore,
        tracking: TrackingWriter,
        recalled: Mapping[str, Recalled],
        progress: Progress,
        retention: Retention,
        curves: StudyCurves,
    ):
        """Prepare to hand out the trials in their order."""
        super().__init__(store, tracking, recalled, progress, retention, curves)
        self.waiting, self.total, self.done = deque(numbers), len(numbers), 0
        self._show()

    def _fresh(self) -> Task | None:
        while self.waiting:
            number = self.waiting.popleft()
            about: dict[str, Any] = {"parameters": self.store.parameters(number), **self.store.origin(number)}
            task = Task(key=trial_name(number), number=number, sampler=RETRAINED, **about)
            if not self._is_known(task):
                return task
            self.done += 1
        return None

    def _has_fresh(self) -> bool:
        return bool(self.waiting)

    def _close(self, task: Task, report: TrialReport, history: Sequence[EpochRecord]) -> None:
        metrics = report.last_metrics(history)
        report = self._checked(report, metrics)
        self._log_end(task, report, report.news(history), metrics)
        if report.state == "finished":
            self.curves.place(metrics, self.store.config.is_feasible(metrics))
        self._tell(task.number, report, metrics)
        self.retention.ended(task, report, metrics)
        self.done += 1
        self._show()

    def _show(self) -> None:
        self.display.after_search(self.done, self.total, "models of sweeps", "trained at their own beta")
