"""Ray Tune's two interfaces on the study's ledger: the only way in which Tune asks and tells. No hook ever raises."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipeline.study.halt import Halt
from pipeline.study.ledger import Ledger
from pipeline.study.messages import Assignment, Task, TrialReport

logger = logging.getLogger(__name__)
T = TypeVar("T")
RELEASED = object()


class LedgerSearcher(Searcher):
    """Hands out assignments until the ledger is exhausted, and takes what becomes of them."""

    def __init__(self, ledger: Ledger, assign: Callable[[Task], Assignment], concurrency: int, halt: Halt):
        """Make the adapter.

        Args:
            ledger: Where every trial is asked for and told of.
            assign: Makes the message to the worker.
            concurrency: The most trials that may be under way at once.
            halt: Asked to end the study at the first error of our own: Tune would end it without saving anything.
        """
        super().__init__()
        self.ledger, self.assign, self.concurrency, self.halt = ledger, assign, concurrency, halt
        self.keys: dict[str, str] = {}
        self.causes: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration, None to wait, or FINISHED."""
        task = None
        if not self.halt.why and len(self.keys) < self.concurrency:
            task = self.guarded(self.ledger.propose, None)
        if task is not None:
            self.keys[trial_id] = task.key
            return {"assignment": self.assign(task)}
        is_over = self.halt.why or (not self.keys and self.guarded(self.ledger.is_exhausted, True))
        return Searcher.FINISHED if is_over else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The scheduler has seen to it."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial's last report, the scheduler's wish to stop it, or the news that its worker died."""
        key = self.keys.pop(trial_id, None)
        if key is None:
            return
        report = (result or {}).get("report")
        if error or report is None:
            why = self.causes.pop(trial_id, "the trial's worker died")
            self.guarded(lambda: self.ledger.lost(key, why), None)
        else:
            last = TrialReport(state="stopped") if report.state == "running" else report
            self.guarded(lambda: self.ledger.end(key, last), None)

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
    """Trials in their order; the ledger says which of them is stopped early."""

    def __init__(self, searcher: LedgerSearcher):
        super().__init__()  # type: ignore[no-untyped-call]
        self.searcher = searcher
        self.kept: Any = None

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Have idle workers wait for their next trial, until one comes that needs their room for itself.

        By itself Tune keeps one idle worker, and ends another that becomes free before the sampler has answered.
        """
        cache, resources = tune_controller._tune_controller._actor_cache, trial.placement_group_factory
        if self.kept is None:
            self.kept = resources
            cache.increase_max(resources, self.searcher.concurrency)
        elif self.kept is not RELEASED and resources != self.kept:
            cache.decrease_max(self.kept, self.searcher.concurrency)
            self.kept = RELEASED

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial goes on after some epochs."""
        searcher, key = self.searcher, self.searcher.keys.get(trial.trial_id)
        if key is None:
            return TrialScheduler.CONTINUE
        goes_on = searcher.guarded(lambda: searcher.ledger.progress(key, result["report"].epochs), True)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Keep what Tune knows of a worker's death; the searcher hears of it next, and without it."""
        self.searcher.causes[trial.trial_id] = self.searcher.guarded(lambda: _cause(trial), "the trial's worker died")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, as for the searcher."""
        return {}


def _cause(trial: Trial) -> str:
    return Path(trial.error_file).read_text(encoding="utf-8").strip() if trial.error_file else "the worker died"
