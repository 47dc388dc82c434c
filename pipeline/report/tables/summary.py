"""A study in a dozen numbers, for the terminal and the head of the report."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.choosing import eligible
from pipeline.report.tables.choice import best
from pipeline.report.tables.frames import STATES, Interval, Missing, numbers, row_of, scalar, tidy
from pipeline.report.tables.frontier import frontier, hypervolume_history
from pipeline.report.tables.scored import champion_auroc, meaning, why_undefined
from pipeline.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """What one wants to know first.

    Attributes:
        name: The study's name.
        states: Number of trials by state; the states of STATES are always there.
        epochs: Epochs trained by all trials together.
        training_hours: Sum of the epochs' seconds in hours (trials run side by side); NaN where unknown.
        frontier_size: Finished, feasible trials that no other such trial dominates.
        best_elbo_nats, best_elbo_trial: The highest validation ELBO of a trial that may be chosen, in nats per example.
        champion_trial, champion_rule: The chosen trial and the metric that chose it; None while there is none.
        champion_score: The anomaly score that the chosen trial is used with; None while there is none.
        test_auroc: The chosen trial's AUROC on the test split, of that score, with its 95 % interval.
        why_no_auroc: Why the chosen trial has none, such as "no labelled anomaly among the examples"; empty where it
            has one, or none is chosen.
        hypervolume: Of the frontier, in the product of the objectives' units; NaN where there is none.
    """

    name: str
    states: Mapping[str, int]
    epochs: int
    training_hours: float
    frontier_size: int
    best_elbo_nats: float
    best_elbo_trial: int | None
    champion_trial: int | None
    champion_rule: str | None
    champion_score: str | None
    test_auroc: Interval
    why_no_auroc: str
    hypervolume: float


def summary(record: StudyRecord) -> StudySummary:
    """The study's main numbers; any may be missing (None or NaN) in a study that has just begun."""
    record = tidy(record)
    return summarized(record, champion_auroc(record))


def summarized(record: StudyRecord, test_auroc: Interval) -> StudySummary:
    """The summary of a tidy record whose `champion_auroc` is known already."""
    seconds = numbers(record.history, "time/epoch_seconds")
    elbo_trial = best(eligible(record.trials), "val/elbo")
    history = hypervolume_history(record)
    return StudySummary(
        name=record.name,
        states=count_by_state(record),
        epochs=len(record.history),
        training_hours=float(np.nansum(seconds)) / 3600 if np.isfinite(seconds).any() else float("nan"),
        frontier_size=len(frontier(record)),
        best_elbo_nats=float("nan") if elbo_trial is None else scalar(row_of(record, elbo_trial), "val/elbo"),
        best_elbo_trial=elbo_trial,
        champion_trial=record.champion.trial if record.champion else None,
        champion_rule=record.champion.rule if record.champion else None,
        champion_score=meaning(record, record.champion) if record.champion else None,
        test_auroc=test_auroc,
        why_no_auroc="" if np.isfinite(test_auroc.value) else why_undefined(record),
        hypervolume=float("nan") if isinstance(history, Missing) else float(history.hypervolume_N[-1]),
    )


def count_by_state(record: StudyRecord) -> dict[str, int]:
    """Number of trials in each state."""
    counts = record.trials["state"].value_counts()
    return {state: int(counts.get(state, 0)) for state in STATES}
