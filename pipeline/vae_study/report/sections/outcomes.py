"""How trials ended: pruned, beyond a constraint, failed, or interrupted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from vae_study.report.failures import failures
from vae_study.report.figure import Grid
from vae_study.report.formatting import NONE
from vae_study.report.frames import epochs_trained, numbers, row_of, scalar, trial_numbers, with_state
from vae_study.report.tables import StudyTables
from vae_study.selection.ranking import feasible, standard_error
from vae_study.tracking.record import StudyRecord

Bound = Literal["at_least", "at_most"]
BOUNDS: tuple[Bound, ...] = ("at_least", "at_most")


def failure_grid(tables: StudyTables) -> Grid:
    """Failed trials by class and reason, with what is known of their epochs and reasons."""
    found = tables.of(failures)
    columns = {
        "failure": [failure.kind for failure in found],
        "trials": [str(len(failure.trials)) for failure in found],
        "their numbers": [", ".join(map(str, failure.trials)) for failure in found],
    }
    if any(failure.epochs for failure in found):
        ranges = (failure.epochs or () for failure in found)
        columns["epochs trained"] = [" to ".join(f"{end:,}" for end in dict.fromkeys(ends)) for ends in ranges]
    if any(failure.reasons for failure in found):
        columns["reason"] = [
            failure.reason or (f"{failure.reasons:,} other reasons" if failure.reasons else NONE) for failure in found
        ]
    return Grid(
        label="Failed trials by failure class",
        head=tuple(columns),
        rows=tuple(zip(*columns.values(), strict=True)),
        missing="No trial failed.",
        is_numeric=False,
        is_loose=True,
    )


@dataclass(frozen=True, kw_only=True)
class Preemptions:
    """Trials that lost their worker or node and continued from their last checkpoint.

    Attributes:
        trials: Their numbers.
        times: How often that happened to all of them together.
    """

    trials: tuple[int, ...]
    times: int


def preemptions(record: StudyRecord) -> Preemptions:
    """The trials that lost their worker and continued; those that failed by it are among the failures."""
    times = pd.Series(numbers(record.trials, "preemptions")).fillna(0)
    continued = times.gt(0) & ~(record.trials["state"].eq("failed") & record.trials["failure"].eq("preempted"))
    return Preemptions(trials=trial_numbers(record.trials[continued]), times=int(times[continued].sum()))


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Which trials were pruned, by what rule, and what that saved.

    Attributes:
        rule: The config's `early_stopping`: `kind`, `metric`, `reduction_factor`, `min_epochs`.
        stopped: Trials that were pruned.
        trials: How many there are in any state.
        trained_by_trial: Epochs that each trial with a history trained.
        trained: Epochs that the finished and the pruned trials trained.
        full: Epochs that those would have trained, each to the end of its own budget.
        stopped_after: How many trials were pruned after each number of epochs, the fewest epochs first.
        spared_hours: Estimated training time that pruning saved, from each trial's mean epoch time; NaN if unknown.
    """

    rule: Mapping[str, Any]
    stopped: tuple[int, ...]
    trials: int
    trained_by_trial: Mapping[int, int]
    trained: int
    full: int
    stopped_after: Mapping[int, int]
    spared_hours: float

    @property
    def share(self) -> float:
        """The part of the full budget that was trained, 0 to 1; NaN where it is unknown."""
        return self.trained / self.full if self.full else float("nan")


def early_stopping(record: StudyRecord) -> EarlyStopping | None:
    """What early stopping did; None in a study that does not ask for it.

    Failed trials are no part of the shares, since not pruning but failing saved their epochs; nor are those that
    are still to continue, or whose history or budget is unknown.
    """
    rule = record.config.get("early_stopping") or {}
    if (rule.get("kind") or "none") == "none":
        return None
    trained = epochs_trained(record)
    # The epochs that each trial was given: searched, else fixed in the config.
    fixed = float((record.config.get("training") or {}).get("epochs") or np.nan)
    budget = pd.Series(numbers(record.trials, "training.epochs"), index=record.trials["trial"]).fillna(fixed)
    ended = record.trials.loc[record.trials["state"].isin(["finished", "pruned"]), "trial"]
    known = ended[ended.isin(trained.index) & np.isfinite(budget[ended].to_numpy())]
    stopped = trial_numbers(with_state(record, "pruned"))
    after = trained[trained.index.isin(stopped)]
    history = record.history.assign(seconds=numbers(record.history, "time/epoch_seconds"))
    pace = history[history["trial"].isin(after.index)].groupby("trial")["seconds"].mean()
    seconds = ((budget.reindex(after.index) - after).clip(lower=0) * pace).dropna()
    return EarlyStopping(
        rule=rule,
        stopped=stopped,
        trials=len(record.trials),
        trained_by_trial=dict(zip(map(int, trained.index), map(int, trained), strict=True)),
        trained=int(trained[known].sum()),
        full=int(budget[known].sum()),
        stopped_after=dict(sorted(Counter(after.tolist()).items())),
        spared_hours=float(seconds.sum()) / 3600 if len(seconds) else float("nan"),
    )


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One bound of one metric.

    Attributes:
        metric: What is bounded.
        bound: From below or from above.
        limit: The last value that is allowed, in the metric's unit.
        violating: The infeasible finished trials that are beyond it, or did not measure it.
    """

    metric: str
    bound: Bound
    limit: float
    violating: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """The study's constraints.

    Attributes:
        bounds: Each of them, as in the config.
        violating: Finished trials that violate one at least.
        finished: How many trials have finished.
    """

    bounds: tuple[Constraint, ...]
    violating: tuple[int, ...]
    finished: int

    @property
    def none_kept(self) -> bool:
        """Whether trials have finished, but none satisfies the constraints."""
        return 0 < self.finished == len(self.violating)


def constraints(record: StudyRecord) -> Constraints:
    """Which finished trials violate which constraint."""
    finished = with_state(record, "finished")
    violating, bounds = finished.drop(feasible(finished).index), []
    for given in record.config.get("constraints") or ():
        for bound in BOUNDS:
            if given.get(bound) is not None:
                metric, limit = str(given["metric"]), float(given[bound])
                values = numbers(violating, metric)
                beyond = violating[~(values >= limit if bound == "at_least" else values <= limit)]
                bounds.append(Constraint(metric=metric, bound=bound, limit=limit, violating=trial_numbers(beyond)))
    return Constraints(bounds=tuple(bounds), violating=trial_numbers(violating), finished=len(finished))


@dataclass(frozen=True, kw_only=True)
class EarlyMatch:
    """The validation AUROC of the median trial after one epoch, as good as that of the chosen model within the noise.

    Attributes:
        first: The median over trials of the AUROC after their first epoch, by the score that trials follow.
        chosen: The chosen model's, by its own score.
        error: Its standard error.
    """

    first: float
    chosen: float
    error: float


def early_match(record: StudyRecord) -> EarlyMatch | None:
    """The match of a trial of one epoch, if it is within one standard error of the chosen model; else None."""
    champion = record.champion
    validation = (record.data.get("splits") or {}).get("validation") or {}
    anomalies = validation.get("anomalies", 0)
    normals = validation.get("rows", 0) - anomalies
    if champion is None or not anomalies or not normals or record.history.empty:
        return None
    first_N = numbers(record.history.sort_values("epoch").drop_duplicates("trial"), "val/auroc")
    chosen = scalar(row_of(record, champion.trial), f"val_auroc/{champion.score}")
    error = standard_error("val/auroc", chosen, (anomalies, normals))
    first = float(np.nanmedian(first_N)) if np.isfinite(first_N).any() else float("nan")
    return EarlyMatch(first=first, chosen=chosen, error=error) if first >= chosen - error else None
