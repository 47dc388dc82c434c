"""What a study keeps on its disk: checkpoints of what may still go on, weights of what may still be chosen."""

import logging
import time
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd

from pipeline.choosing.comparison import detectors
from pipeline.search.pareto import frontier_of
from pipeline.study.checkpoints import with_checkpoints
from pipeline.study.files import OF_FINALISTS
from pipeline.study.messages import Task, TrialReport
from pipeline.study.plan import Plan
from pipeline.tracking.layout import trial_name

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SWEEPS = 5.0


class Keeper:
    """Deletes as the study goes, in a thread of its own, since a far store may be slow.

    A trial that another one dominates, or that is no longer among the best by any rule, never comes back: its weights
    can go at once. Its scores stay.
    """

    def __init__(self, plan: Plan, trials: pd.DataFrame):
        """Begin with the trials of earlier drivers, a row a trial."""
        self.plan = plan
        self._rows: list[Mapping[Any, Any]] = [*trials.loc[trials["state"] == "finished"].to_dict("records")]
        self._with_weights = {int(row["trial"]) for row in self._rows}
        self._swept = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keeper")

    def ended(self, task: Task, report: TrialReport, metrics: Mapping[str, float]) -> None:
        """A trial needs its checkpoints no longer; where it finished, others may have become needless."""
        self.drop_checkpoints(task.key)
        if report.state == "finished":
            feasible = self.plan.spec.is_feasible(metrics)
            self._rows.append({"trial": task.number, "state": "finished", "feasible": feasible, **metrics})
            self._with_weights.add(task.number)
        if time.monotonic() - self._swept > SECONDS_BETWEEN_SWEEPS:
            self._order_sweep()

    def drop_checkpoints(self, key: str) -> None:
        """A task needs its checkpoints no longer."""
        self._thread.submit(self._clear, key)

    def drop_leftovers(self, ended: Set[str]) -> None:
        """An earlier driver may have died before it cleared the checkpoints of tasks that had ended."""
        if ended:
            self._thread.submit(self._clear_leftovers, ended)

    def close(self) -> None:
        """The last sweep."""
        self._order_sweep()
        self._thread.shutdown(wait=True)

    def _order_sweep(self) -> None:
        self._swept = time.monotonic()
        # Who was passed over once never comes back: to look at all again would take ever longer. But while there is one
        # that keeps the constraints, those that do not are out, even if nothing else speaks for it.
        anchor = next((row for row in self._rows if row.get("feasible", True)), None)
        self._rows = [row for row in self._rows if row is anchor or int(row["trial"]) in self._with_weights]
        if self._rows:
            self._thread.submit(self._sweep, [*self._rows])

    def _clear(self, key: str) -> None:
        try:
            (self.plan.checkpoints / key).clear()
        except OSError as error:
            logger.warning("the checkpoints of %s stay: %s", key, error)

    def _clear_leftovers(self, ended: Set[str]) -> None:
        try:
            for key in ended & set(with_checkpoints(self.plan.checkpoints)):
                self._clear(key)
        except OSError as error:
            logger.warning("checkpoints of tasks that have ended may stay: %s", error)

    def _sweep(self, rows: Sequence[Mapping[Any, Any]]) -> None:
        # A trial that ended after the sweep was ordered is not among the rows, and may be better than all of them.
        known = self._with_weights & {int(row["trial"]) for row in rows}
        try:
            for number in known - finalists(self.plan, pd.DataFrame(rows)):
                for name in OF_FINALISTS:
                    (self.plan.trials / trial_name(number)).remove(name)
                self._with_weights.discard(number)
        except OSError as error:
            logger.warning("weights of trials that will not be chosen stay: %s", error)


def frontier_numbers(plan: Plan, trials: pd.DataFrame) -> list[int]:
    """The numbers of the frontier's trials."""
    objectives = [objective.metric for objective in plan.spec.objectives]
    numbers: list[int] = frontier_of(trials, objectives, plan.signs)["trial"].tolist()
    return numbers


def finalists(plan: Plan, trials: pd.DataFrame) -> set[int]:
    """The trials that may still be used: the frontier, and those that any rule or ensemble would take."""
    frontier = frontier_numbers(plan, trials)
    spec = plan.spec
    found = detectors(trials, frontier, plan.label_free_rule, spec.anomaly.score, members=spec.ensemble.members)
    return {*frontier, *(pick.trial for one in found for pick in one.picks)}
