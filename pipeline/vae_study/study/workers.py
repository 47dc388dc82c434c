"""The workers of a study: what Ray Tune asks and reports goes through its two interfaces, a searcher and a scheduler.

What Tune calls a trial is a worker here. It stays as long as the study has work for it, and trains as many of the
study's trials at once as have a slot on its device. A process for each trial would cost more than many a small trial
does, and could not train several of them as one tensor program. No hook of Tune's ever raises.
"""

import logging
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from vae_study.config.study import ResourcesConfig
from vae_study.errors import StudyError
from vae_study.search.study_store import STORE_ERRORS
from vae_study.study.dispatcher import Dispatcher
from vae_study.study.messages import Assignment, Commands, Task, TrialReport, WorkerReport
from vae_study.study.ray_compat import leave_environment_alone, silent_callbacks
from vae_study.study.session import RoomWatch, Shutdown, whole_device
from vae_study.tracking.store import Refusal

logger = logging.getLogger(__name__)
T = TypeVar("T")
# What a disk or a database raises that is full, gone or locked.
OUTAGES = (OSError, Refusal, *STORE_ERRORS)
DIED = "the trial's worker died"

# A study fails after EARLY_DEATHS times the largest number of workers have died in a row without a report.
EARLY_DEATHS = 3
# The cluster may grow for this many waiting workers at a time; Ray Tune checks all of them at every step.
MOST_WAITING = 64
# Of all workers together; a driver takes some milliseconds for one.
REPORTS_PER_SECOND = 200
# A worker is told of a pace that is slower than this, and twice as slow as the one that it has.
SLOWER_SECONDS = 0.1


@dataclass(kw_only=True)
class Worker:
    """A worker as the driver knows it; `keys` are those of its tasks, `device` is what it trains on.

    `pace_seconds` is the least time between its reports, as far as it has been told.
    """

    channel: str
    is_exclusive: bool
    has_reported: bool = False
    pace_seconds: float = 0.0
    device: str = ""
    keys: set[str] = field(default_factory=set)


class WorkerSearcher(Searcher):
    """Has Tune start workers as long as the dispatcher has tasks, and passes their reports to the dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        assign: Callable[[int, bool], Assignment],
        post: Callable[[str, Commands], None],
        tasks: int,
        at_once: int,
        workers: Callable[[int], int],
        shutdown: Shutdown,
    ):
        """Make the adapter.

        Args:
            dispatcher: Where tasks come from and reports go to.
            assign: Makes the assignment of a new worker from its number and whether it is exclusive.
            post: Leaves commands in a worker's channel.
            tasks: How many tasks the dispatcher is going to have.
            at_once: The most tasks that run at once.
            workers: Gives the most workers at once from how many tasks have not ended; it may change with the time.
            shutdown: Gets the first error of our own: if Tune heard of it, it would end without saving anything.
        """
        super().__init__()
        self.dispatcher, self.assign, self.post, self.shutdown = dispatcher, assign, post, shutdown
        self.left, self.at_once, self._most_workers = tasks, at_once, workers
        self.workers: dict[str, Worker] = {}
        self.causes: dict[str, str] = {}
        self.assigned = self.early_deaths = 0
        self.exclusive: Task | None = None

    def suggest(self, trial_id: str) -> Any:
        """A worker's configuration, None to wait, or FINISHED."""
        if self._has_work() and len(self.workers) < self._room():
            assignment = self.assign(self.assigned, self.exclusive is not None)
            self.assigned += 1
            self.workers[trial_id] = Worker(channel=assignment.channel, is_exclusive=assignment.is_exclusive)
            return {"assignment": assignment}
        return None if self.workers else Searcher.FINISHED

    @property
    def most_workers(self) -> int:
        """The most workers at once, one at least."""
        return self._most_workers(self.left)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to do, even if workers still wait for a place."""
        return not self._has_work() and not any(worker.keys for worker in self.workers.values())

    @property
    def active(self) -> int:
        """How many workers there are, without those that wait for a place or start."""
        return sum(worker.has_reported for worker in self.workers.values())

    def surplus(self) -> list[str]:
        """Workers that wait for a place and are not needed; the cluster would grow for them."""
        waiting = [key for key, one in self.workers.items() if not one.has_reported and not one.is_exclusive]
        beyond = max(0, len(self.workers) - self._room()) if self._has_work() else len(waiting)
        return waiting[max(0, len(waiting) - beyond) :]

    def _has_work(self) -> bool:
        return not self.shutdown.reason and (
            self.exclusive is not None or self.guarded(self.dispatcher.has_waiting, False)
        )

    def _room(self) -> int:
        """How many workers there may be; an exclusive task gets its worker once all others have left."""
        is_exclusive = self.exclusive is not None or any(worker.is_exclusive for worker in self.workers.values())
        return 1 if is_exclusive else self.most_workers

    def take_report(self, trial_id: str, report: WorkerReport) -> None:
        """Pass on what a worker reports, and leave it its next commands."""
        worker = self.workers.get(trial_id)
        if worker is not None:
            worker.has_reported, worker.device, self.early_deaths = True, report.device, 0
            if report.problem:
                return self.shutdown.request(StudyError(report.problem))
            stop = [key for key in report.tasks if not self._continues(worker, key, report.tasks[key])]
            if report.is_leaving:
                return self._take_back(worker)
            start = self._fill(worker, report.slots)
            # A worker without tasks leaves when nothing will come, or to make room for an exclusive task.
            is_over = not worker.keys and (
                not self._has_work() or (self.exclusive is not None and not worker.is_exclusive)
            )
            pace = self.active / REPORTS_PER_SECOND
            if stop or start or is_over or pace > max(SLOWER_SECONDS, 2 * worker.pace_seconds):
                commands = Commands(start=start, stop=stop, is_over=is_over, pace_seconds=pace)
                worker.pace_seconds = pace
                self.guarded(lambda: self.post(worker.channel, commands), None)

    def _continues(self, worker: Worker, key: str, report: TrialReport) -> bool:
        if report.state == "running" and self.guarded(lambda: self.dispatcher.progress(key, report.epochs), True):
            return True
        last = TrialReport(state="pruned") if report.state == "running" else report
        worker.keys.discard(key)
        self.left -= 1
        self.guarded(lambda: self.dispatcher.end(key, last), None)
        return report.state != "running"

    def _take_back(self, worker: Worker) -> None:
        """Give the tasks of a worker that leaves back to the dispatcher."""
        while worker.keys:
            key = min(worker.keys)
            worker.keys.discard(key)
            self.guarded(lambda key=key: self.dispatcher.handed_back(key), None)  # type: ignore[misc]

    def _fill(self, worker: Worker, slots: int) -> list[Task]:
        """New tasks for a worker, and no more than its share of those that are left."""
        tasks: list[Task] = []
        share = min(slots, math.ceil(max(1, min(self.left, self.at_once)) / self.most_workers))
        while len(worker.keys) < share and (task := self._next(worker)) is not None:
            worker.keys.add(task.key)
            tasks.append(task)
        return tasks

    def _next(self, worker: Worker) -> Task | None:
        if self.shutdown.reason or sum(len(one.keys) for one in self.workers.values()) >= self.at_once:
            return None
        task, self.exclusive = self.exclusive, None
        task = task or self.guarded(lambda: self.dispatcher.propose(worker.device), None)
        if task is not None and task.is_exclusive and not worker.is_exclusive:
            self.exclusive = task
            return None
        if task is not None:
            self.guarded(lambda: self.dispatcher.placed(task.key, worker.device), None)
        return task

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has passed it on."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on that a worker has left, or died with its tasks."""
        worker = self.workers.pop(trial_id, None)
        why = self.causes.pop(trial_id, DIED)
        if error and worker is not None and not worker.has_reported:
            self.early_deaths += 1
            if self.early_deaths >= EARLY_DEATHS * self.most_workers:
                self.shutdown.request(StudyError(f"{self.early_deaths} workers in a row died before they began: {why}"))
        keys = worker.keys if worker is not None and not self.shutdown.reason else set()
        for key in sorted(keys):
            self.guarded(lambda key=key: self.dispatcher.lost(key, why, len(keys) > 1), None)  # type: ignore[misc]

    def guarded(self, hook: Callable[[], T], instead: T) -> T:
        """What a hook returns; if it raises, the study shuts down and the driver learns why."""
        try:
            return hook()
        except Exception as error:
            # The driver's last message says which disk or database is full, gone or locked.
            if not isinstance(error, OUTAGES) and not self.shutdown.is_at_once:
                logger.error("a hook of the study failed", exc_info=error)
            self.shutdown.request(error)
            return instead

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for a restore that is never used."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study store is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study store is the truth."""


class WorkerScheduler(FIFOScheduler):
    """Starts workers in their order, and passes on each report."""

    def __init__(self, searcher: WorkerSearcher):
        super().__init__()  # type: ignore[no-untyped-call]
        self.searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Let the worker continue: its commands say with what. End those that are not needed."""
        self.searcher.take_report(trial.trial_id, result["report"])
        for key in self.searcher.surplus():
            if (waiting := tune_controller.get_trial(key)).status == Trial.PENDING:
                tune_controller.stop_trial(waiting)
        return TrialScheduler.CONTINUE

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Keep why a worker died: the searcher is called next, without the reason."""
        if trial.error_file:
            cause = self.searcher.guarded(lambda: Path(trial.error_file).read_text(encoding="utf-8").strip(), DIED)
            self.searcher.causes[trial.trial_id] = cause

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}


class _Ends(tune.Stopper):
    """Ends Tune's run when the study is to end; its workers are then stopped one by one, and save their tasks."""

    def __init__(self, shutdown: Shutdown, searcher: WorkerSearcher, room: RoomWatch):
        self.shutdown, self.searcher, self.room = shutdown, searcher, room

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self.shutdown.spend(active := self.searcher.active)
        self.searcher.guarded(lambda: self.room.look(active > 0), None)
        return self.shutdown.reason is not None or self.searcher.is_done

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles all that it is given, for a restore that is never used."""
        return {}


def run_workers(
    searcher: WorkerSearcher,
    workers: int,
    resources: ResourcesConfig,
    shutdown: Shutdown,
    trainable: type[tune.Trainable],
) -> None:
    """Run Ray Tune until there is no work left, or the study is to end.

    Args:
        searcher: Has workers started, and gives them their commands.
        workers: How many start side by side.
        resources: What one worker occupies.
        shutdown: Says when to end early.
        trainable: What a worker is.
    """
    os.environ |= {
        # One waiting worker a slot, so that all start side by side.
        "TUNE_MAX_PENDING_TRIALS_PG": str(min(workers, MOST_WAITING)),
        # Signals, results and errors are the driver's own business.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    }
    ordinary = tune.PlacementGroupFactory([{"CPU": resources.cpu, "GPU": resources.gpu}])
    exclusive = tune.PlacementGroupFactory([whole_device(resources)])
    leave_environment_alone()
    # Tune's own notes are never read again.
    with tempfile.TemporaryDirectory(prefix="vae-study-tune-") as notes:
        tuner = tune.Tuner(
            tune.with_resources(trainable, lambda config: exclusive if config["assignment"].is_exclusive else ordinary),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=WorkerScheduler(searcher),
                num_samples=-1,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=notes,
                verbose=0,
                callbacks=silent_callbacks(),
                # In a notebook, Tune's own would clear the output of the cell.
                progress_reporter=tune.CLIReporter(),
                stop=_Ends(shutdown, searcher, RoomWatch(resources, searcher.dispatcher.display.tell)),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        shutdown.while_ray_lives(tuner.fit)


def _name(trial: Trial) -> str:
    return f"worker-{trial.trial_id}"
