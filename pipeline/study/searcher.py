"""Ray Tune's two interfaces on the study's ledger: the only way in which Tune asks and tells. No hook ever raises.

What Tune schedules are workers: each is one of its trials, stays as long as the study has work for it, and trains as
many of the study's trials at once as have a seat on its device. A process for each trial would cost more than many a
small trial does, and could not train several of them as one tensor program.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.errors import StudyError
from pipeline.study.halt import Halt
from pipeline.study.ledger import Ledger
from pipeline.study.messages import Assignment, Orders, Task, TrialReport, WorkerReport

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Where so many in a row die before they say anything, for each that there may be, the next ones would too.
STILLBORN = 3


@dataclass(kw_only=True)
class Worker:
    """A worker as the driver knows it; `keys` are the tasks that it has."""

    mailbox: str
    is_alone: bool
    has_reported: bool = False
    keys: set[str] = field(default_factory=set)


class LedgerSearcher(Searcher):
    """Has workers started as long as the ledger has tasks, and takes what becomes of them."""

    def __init__(
        self,
        ledger: Ledger,
        hire: Callable[[int, bool], Assignment],
        post: Callable[[str, Orders], None],
        tasks: int,
        at_once: int,
        workers: Callable[[int], int],
        halt: Halt,
    ):
        """Make the adapter.

        Args:
            ledger: Where every task is asked for and told of.
            hire: Makes the message to a new worker from its number, and whether it is for a task that needs to be
                alone.
            post: Leaves orders in a worker's mailbox.
            tasks: How many tasks the ledger is going to have.
            at_once: The most tasks under way at once.
            workers: Gives the most workers at once from how many tasks have not ended; it may change with the time.
            halt: Asked to end the study at the first error of our own: Tune would end it without saving anything.
        """
        super().__init__()
        self.ledger, self.hire, self.post, self.halt = ledger, hire, post, halt
        self.left, self.at_once, self._most_workers = tasks, at_once, workers
        self.workers: dict[str, Worker] = {}
        self.causes: dict[str, str] = {}
        self.hired = self.stillborn = 0
        self.aside: Task | None = None

    def suggest(self, trial_id: str) -> Any:
        """A worker's configuration, None to wait, or FINISHED."""
        if self._has_work() and len(self.workers) < self._room():
            assignment = self.hire(self.hired, self.aside is not None)
            self.hired += 1
            self.workers[trial_id] = Worker(mailbox=assignment.mailbox, is_alone=assignment.is_alone)
            return {"assignment": assignment}
        return None if self.workers else Searcher.FINISHED

    @property
    def most_workers(self) -> int:
        """The most workers at once, one at least."""
        return self._most_workers(self.left)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to do, also where workers still wait for a place."""
        return not self._has_work() and not any(worker.keys for worker in self.workers.values())

    def superfluous(self) -> list[str]:
        """Workers that have not begun and are not needed: for those that wait for a place, the cluster would grow."""
        waiting = [key for key, one in self.workers.items() if not one.has_reported and not one.is_alone]
        beyond = max(0, len(self.workers) - self._room()) if self._has_work() else len(waiting)
        return waiting[max(0, len(waiting) - beyond) :]

    def _has_work(self) -> bool:
        return not self.halt.why and (self.aside is not None or self.guarded(self.ledger.has_waiting, False))

    def _room(self) -> int:
        """A task that has to be alone gets its worker once all others have left."""
        is_alone = self.aside is not None or any(worker.is_alone for worker in self.workers.values())
        return 1 if is_alone else self.most_workers

    def take_report(self, trial_id: str, report: WorkerReport) -> None:
        """Write down what a worker says, and leave it its next orders."""
        worker = self.workers.get(trial_id)
        if worker is not None:
            worker.has_reported, self.stillborn = True, 0
            stop = [key for key in report.tasks if not self._goes_on(worker, key, report.tasks[key])]
            if report.is_leaving:
                return self._take_back(worker)
            start = self._fill(worker, report.seats)
            # Who has nothing to do leaves when nothing will come, or to make room for a task that has to be alone.
            is_over = not worker.keys and (not self._has_work() or (self.aside is not None and not worker.is_alone))
            if stop or start or is_over:
                orders = Orders(start=start, stop=stop, is_over=is_over)
                self.guarded(lambda: self.post(worker.mailbox, orders), None)

    def _goes_on(self, worker: Worker, key: str, report: TrialReport) -> bool:
        if report.state == "running" and self.guarded(lambda: self.ledger.progress(key, report.epochs), True):
            return True
        last = TrialReport(state="stopped") if report.state == "running" else report
        worker.keys.discard(key)
        self.left -= 1
        self.guarded(lambda: self.ledger.end(key, last), None)
        return report.state != "running"

    def _take_back(self, worker: Worker) -> None:
        """All that a worker had, when it leaves before the work is done."""
        while worker.keys:
            key = min(worker.keys)
            worker.keys.discard(key)
            self.guarded(lambda key=key: self.ledger.handed_back(key), None)  # type: ignore[misc]

    def _fill(self, worker: Worker, seats: int) -> list[Task]:
        """New tasks for a worker, but no more than its share of those that are left."""
        tasks: list[Task] = []
        share = min(seats, math.ceil(max(1, min(self.left, self.at_once)) / self.most_workers))
        while len(worker.keys) < share and (task := self._next(worker)) is not None:
            worker.keys.add(task.key)
            tasks.append(task)
        return tasks

    def _next(self, worker: Worker) -> Task | None:
        if self.halt.why or sum(len(one.keys) for one in self.workers.values()) >= self.at_once:
            return None
        task, self.aside = self.aside, None
        task = task or self.guarded(self.ledger.propose, None)
        if task is not None and task.is_alone and not worker.is_alone:
            self.aside = task
            return None
        return task

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The scheduler has seen to it."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A worker has left, or died, and its tasks with it."""
        worker = self.workers.pop(trial_id, None)
        why = self.causes.pop(trial_id, "the trial's worker died")
        if error and worker is not None and not worker.has_reported:
            self.stillborn += 1
            if self.stillborn >= STILLBORN * self.most_workers:
                self.halt.ask(StudyError(f"{self.stillborn} workers in a row died before they began: {why}"))
        keys = worker.keys if worker is not None and not self.halt.why else set()
        for key in sorted(keys):
            self.guarded(lambda key=key: self.ledger.lost(key, why, len(keys) > 1), None)  # type: ignore[misc]

    def guarded(self, hook: Callable[[], T], instead: T) -> T:
        """What a hook gives; where it raises, the study ends and the driver learns why."""
        try:
            return hook()
        except Exception as error:
            logger.error("a hook of the study failed", exc_info=error)
            self.halt.ask(error)
            return instead

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for a restore that is never used."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study store is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study store is the truth."""


class LedgerScheduler(FIFOScheduler):
    """Workers in their order; what they say goes to the ledger, which answers with their next orders."""

    def __init__(self, searcher: LedgerSearcher):
        super().__init__()  # type: ignore[no-untyped-call]
        self.searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """A worker always goes on: its orders say with what."""
        self.searcher.take_report(trial.trial_id, result["report"])
        for key in self.searcher.superfluous():
            if (waiting := tune_controller.get_trial(key)).status == Trial.PENDING:
                tune_controller.stop_trial(waiting)
        return TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Keep what Tune knows of a worker's death; the searcher hears of it next, and without it."""
        self.searcher.causes[trial.trial_id] = self.searcher.guarded(lambda: _cause(trial), "the trial's worker died")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}


def _cause(trial: Trial) -> str:
    return Path(trial.error_file).read_text(encoding="utf-8").strip() if trial.error_file else "the worker died"
