"""How the frontier's trials got there: validation terms by epoch, with the KL weight under them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.report.tables.frames import Missing, numbers, trial_numbers
from pipeline.report.tables.frontier import frontier
from pipeline.tracking.record import StudyRecord

TERMS = ("val/reconstruction", "val/kl", "train/kl_weight")


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """Epoch by epoch, some trials of the frontier.

    Attributes:
        trials: Their numbers, from the frontier's one end to the other.
        beta_by_trial: NaN where unknown.
        curves: Columns `trial`, `epoch` and TERMS (nats per example; the weight without unit).
        frontier_size: How many trials the frontier has; those left out lie between those here.
    """

    trials: tuple[int, ...]
    beta_by_trial: dict[int, float]
    curves: pd.DataFrame
    frontier_size: int


def training_curves(record: StudyRecord, most: int = 7) -> TrainingCurves | Missing:
    """The histories of at most `most` frontier trials, spread evenly over it, its ends and the chosen one included."""
    members = frontier(record)
    members = members[members["trial"].isin(record.history["trial"])].reset_index(drop=True)
    if members.empty:
        return Missing("No trial of the frontier has a history of its epochs.")
    shown = members.iloc[_spread(len(members), most, _champion_place(record, members))]
    trials = trial_numbers(shown)
    history = record.history[record.history["trial"].isin(trials)]
    curves = pd.DataFrame({name: numbers(history, name) for name in ("trial", "epoch", *TERMS)})
    return TrainingCurves(
        trials=trials,
        beta_by_trial=dict(zip(trials, numbers(shown, "beta").tolist(), strict=True)),
        curves=curves.astype({"trial": int}),
        frontier_size=len(frontier(record)),
    )


def _champion_place(record: StudyRecord, members: pd.DataFrame) -> int | None:
    numbers_here = trial_numbers(members)
    chosen = record.champion.trial if record.champion else None
    return numbers_here.index(chosen) if chosen in numbers_here else None


def _spread(size: int, most: int, always: int | None) -> list[int]:
    """At most `most` of `size` places, evenly spread; the inner one nearest to `always` gives way to it."""
    places = np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))
    if always is not None and always not in places:
        inner = places[1:-1]
        inner[np.abs(inner - always).argmin()] = always
    return [int(place) for place in places]
