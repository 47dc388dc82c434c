"""The search's ledger: proposals, epochs and ends of trials go to the study store, to tracking and to the screen."""

import math
import re
import time
from collections.abc import Mapping, Sequence

from pipeline.errors import StudyError
from pipeline.search.early_stopping import due
from pipeline.search.store import StudyStore
from pipeline.spec import StudySpec
from pipeline.study.asking import Asker
from pipeline.study.halt import Halt
from pipeline.study.judging import kl_weights_of, rungs_of
from pipeline.study.keeper import Keeper
from pipeline.study.ledger import Ledger, end_tags
from pipeline.study.messages import Task, TrialReport
from pipeline.study.progress import Progress
from pipeline.tracking import layout
from pipeline.tracking.curves import StudyCurves, log10_parameters
from pipeline.tracking.layout import trial_name
from pipeline.tracking.record import EpochRecord
from pipeline.tracking.writer import Recalled, TrackingWriter

# So many first trials that fail alike mean that the others would too.
ALIKE = 3
SECONDS_BETWEEN_SHOWS = 1.0


class StudyLedger(Ledger):
    """Trials by Optuna's numbers. The study store is told last: what it takes as ended, the spool has on disk."""

    def __init__(
        self,
        store: StudyStore,
        tracking: TrackingWriter,
        recalled: Mapping[str, Recalled],
        progress: Progress,
        keeper: Keeper,
        halt: Halt,
        at_once: int,
        curves: StudyCurves,
    ):
        super().__init__(tracking, recalled)
        self.store, self.display, self.keeper, self.halt, self.curves = store, progress, keeper, halt, curves
        self._rungs: dict[str, tuple[int, ...]] = {}
        self._first: list[int] = []
        self._shown = -math.inf
        self.asker = Asker(store.ask, lambda: store.ask(at_random=True), store.remaining(), at_once)

    def _fresh(self) -> Task | None:
        while (proposal := self.asker.take()) is not None:
            task = Task(
                key=trial_name(proposal.number),
                number=proposal.number,
                parameters=dict(proposal.parameters),
                sampler=proposal.sampler,
            )
            known = self.recalled.get(task.key)
            if known is None or known.end is None:
                self.show()
                return task
            report = _as_report(known)
            self._tell(task, report, last_metrics(report, known.epochs))
            self.keeper.drop_checkpoints(task.key)
        return None

    def _has_fresh(self) -> bool:
        return self.asker.has_more()

    def _describe(self, task: Task) -> tuple[str, dict[str, str]]:
        return described(task)

    def _goes_on(self, task: Task, history: Sequence[EpochRecord]) -> bool:
        if task.key not in self._rungs:
            self._rungs[task.key] = rungs_of(self.store.spec, task)
        rung = due(self._rungs[task.key], kl_weights_of(history))
        if rung is None:
            return True
        return self.store.judge(task.number, rung, history[-1].metrics, is_late=rung < history[-1].epoch)

    def _preempted(self, task: Task) -> int:
        return self.store.count_preemption(task.number)

    def _close(self, task: Task, report: TrialReport, history: Sequence[EpochRecord]) -> None:
        metrics = last_metrics(report, history)
        report = self._checked(report, metrics)
        tags = last_tags(self.store.spec, report, metrics)
        scales = log10_parameters(self.store.spec.search, task.parameters)
        self.tracking.end(task.key, task.number, {**report.metrics, **scales}, tags, report.error)
        self._draw_curves(report.state, metrics)
        self._tell(task, report, metrics)
        self.keeper.ended(task, report, metrics)
        self._stop_if_alike(task.number)
        self.show()

    def _draw_curves(self, state: str, metrics: Mapping[str, float]) -> None:
        values = self.curves.add(state, metrics, self.store.spec.is_feasible(metrics))
        self.tracking.log_curves(self.curves.step, values)

    def _checked(self, report: TrialReport, metrics: Mapping[str, float]) -> TrialReport:
        """A trial without finite objectives has not finished, whatever it says."""
        objectives = [objective.metric for objective in self.store.spec.objectives]
        bad = [metric for metric in objectives if not math.isfinite(metrics.get(metric, math.nan))]
        if report.state != "finished" or not bad:
            return report
        return TrialReport(state="failed", failure="diverged", error=f"{', '.join(bad)} not finite at the end")

    def _tell(self, task: Task, report: TrialReport, metrics: Mapping[str, float]) -> None:
        if report.state == "finished":
            self.store.finish(task.number, metrics)
        elif report.state == "stopped":
            self.store.stop(task.number, metrics)
        else:
            self.store.fail(task.number, report.failure or "error", report.reason)

    def _stop_if_alike(self, number: int) -> None:
        if len(self._first) < ALIKE:
            self._first = self.store.first_numbers(ALIKE)
        if len(self._first) < ALIKE or number not in self._first:
            return
        failures = self.store.failures()[:ALIKE]
        if [failed for failed, _, _ in failures] != self._first:
            return
        kinds = {(failure, re.sub(r"\d+", "#", reason)) for _, failure, reason in failures}
        _, failure, reason = failures[0]
        # To diverge is a configuration's own fault, of which a search may well draw three.
        if len(kinds) == 1 and failure != "diverged":
            self.halt.ask(StudyError(f"the first {ALIKE} trials failed alike ({failure}): {reason}"))

    def show(self) -> None:
        """Bring the progress line up to date, now and then."""
        if time.monotonic() - self._shown < SECONDS_BETWEEN_SHOWS:
            return
        self._shown = time.monotonic()
        # To read the whole store would take ever longer.
        front_NM = self.curves.signs_M * self.curves.front_NM
        self.display.update(self.curves.counts, front_NM.tolist(), self.tracking.uploader.stalled())


def described(task: Task) -> tuple[str, dict[str, str]]:
    """The name and the tags of a trial's run."""
    tags = {layout.KIND: "trial", layout.TRIAL: str(task.number), layout.SAMPLER: task.sampler}
    return layout.trial_run_name(task.number, task.parameters), tags


def last_tags(spec: StudySpec, report: TrialReport, metrics: Mapping[str, float]) -> dict[str, str]:
    """How a trial's run says what became of it."""
    feasible = {layout.FEASIBLE: str(spec.is_feasible(metrics)).lower()} if spec.constraints else {}
    return end_tags(report) | feasible


def last_metrics(report: TrialReport, history: Sequence[EpochRecord]) -> dict[str, float]:
    """A trial's metrics at its end: those of its last epoch, and the final ones."""
    return {**(history[-1].metrics if history else {}), **report.metrics}


def _as_report(known: Recalled) -> TrialReport:
    """What an earlier driver had written down of an end before it could tell the study store."""
    assert known.end is not None
    tags = known.end["tags"]
    return TrialReport(
        state=tags[layout.STATE],
        failure=tags.get(layout.FAILURE),
        error=tags.get(layout.REASON),
        metrics=known.end["metrics"],
    )
