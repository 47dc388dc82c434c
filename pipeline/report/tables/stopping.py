"""What early stopping spared: epochs trained beside those of the full budget."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report.tables.frames import numbers, trial_numbers, with_state
from pipeline.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Which trials were stopped early, by what rule, and what that spared.

    Attributes:
        rule: The spec's `early_stopping`: `kind`, `metric`, `reduction_factor`, `min_epochs`.
        stopped: Trials that were stopped.
        trials: How many there are in any state.
        trained_by_trial: Epochs that each trial with a history trained.
        trained: Epochs that the finished and the stopped trials trained.
        full: Epochs that those would have trained, each to the end of its own budget.
        stopped_after: How many trials were stopped after so many epochs, the fewest epochs first.
        spared_hours: What the stopped trials would still have trained, each at its own mean pace; NaN where unknown.
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


def stops_early(spec: Mapping[str, Any]) -> bool:
    """Whether a study asks for early stopping; one of an earlier version could not."""
    return ((spec.get("early_stopping") or {}).get("kind") or "none") != "none"


def early_stopping(record: StudyRecord) -> EarlyStopping | None:
    """What early stopping did; None in a study that does not ask for it.

    Failed trials are no part of the shares, since not stopping but failing spared their epochs; nor are those that
    are still to go on, or whose history or budget is unknown.
    """
    if not stops_early(record.spec):
        return None
    trained = epochs_trained(record)
    budget = _budgets(record)
    ended = record.trials.loc[record.trials["state"].isin(["finished", "stopped"]), "trial"]
    known = ended[ended.isin(trained.index) & np.isfinite(budget[ended].to_numpy())]
    stopped = trial_numbers(with_state(record, "stopped"))
    after = trained[trained.index.isin(stopped)]
    return EarlyStopping(
        rule=record.spec["early_stopping"],
        stopped=stopped,
        trials=len(record.trials),
        trained_by_trial=dict(zip(map(int, trained.index), map(int, trained), strict=True)),
        trained=int(trained[known].sum()),
        full=int(budget[known].sum()),
        stopped_after=dict(sorted(Counter(after.tolist()).items())),
        spared_hours=_hours(record, (budget.reindex(after.index) - after).clip(lower=0)),
    )


def _hours(record: StudyRecord, epochs: "pd.Series[float]") -> float:
    """What so many more epochs of each trial would have taken, at its own mean pace."""
    history = record.history.assign(seconds=numbers(record.history, "time/epoch_seconds"))
    pace = history[history["trial"].isin(epochs.index)].groupby("trial")["seconds"].mean()
    seconds = (epochs * pace).dropna()
    return float(seconds.sum()) / 3600 if len(seconds) else float("nan")


def epochs_trained(record: StudyRecord) -> "pd.Series[int]":
    """How many epochs each trial trained, by its number; a trial that went on elsewhere counts none twice."""
    return record.history.drop_duplicates(["trial", "epoch"]).groupby("trial").size()


def _budgets(record: StudyRecord) -> "pd.Series[float]":
    """The epochs that each trial was given, by its number: searched, else fixed in the spec; NaN where unknown."""
    fixed = float((record.spec.get("training") or {}).get("epochs") or np.nan)
    searched = pd.Series(numbers(record.trials, "training.epochs"), index=record.trials["trial"])
    return searched.fillna(fixed)
