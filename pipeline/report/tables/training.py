"""How the frontier's trials got there: validation terms by epoch, with the KL weight under them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.report.tables.frames import Missing, numbers, trial_numbers, with_state
from pipeline.report.tables.frontier import frontier, minimized_objectives, objective_signs
from pipeline.search.pareto import feasible
from pipeline.tracking.record import StudyRecord

TERMS = ("val/reconstruction", "val/kl", "train/kl_weight")
NO_HISTORY = "No trial of the frontier has a history of its epochs."
TERMS_WITHOUT_RATE = ("val/reconstruction", "val/squared_error")


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """Epoch by epoch, some trials of the frontier.

    Attributes:
        trials: Their numbers, from the frontier's one end to the other.
        beta_by_trial: NaN where unknown.
        terms: Which metrics the curves have: TERMS, or TERMS_WITHOUT_RATE where no trial here has a KL; those that no
            trial measured are left out.
        order: The objective that the trials are ordered by, the best first.
        curves: Columns `trial`, `epoch` and the terms (nats per example; the weight without unit).
        frontier_size: How many trials the frontier has; those left out lie between those here.
        is_frontier: False where there is a single objective, so that the frontier says little: then the best trials.
    """

    trials: tuple[int, ...]
    beta_by_trial: dict[int, float]
    terms: tuple[str, ...]
    order: str
    curves: pd.DataFrame
    frontier_size: int
    is_frontier: bool


def training_curves(record: StudyRecord, most: int = 7) -> TrainingCurves | Missing:
    """The histories of at most `most` frontier trials, spread evenly over it, its ends and the chosen one included.

    With a single objective, those of the best trials.
    """
    objectives = objective_signs(record.spec)
    shown = spread_over_frontier(record, most)
    if shown.empty:
        return Missing(NO_HISTORY)
    trials = trial_numbers(shown)
    history = record.history[record.history["trial"].isin(trials)]
    terms = _terms(history)
    if not terms:
        return Missing("The histories of the frontier's trials hold none of the metrics that are drawn here.")
    curves = pd.DataFrame({name: numbers(history, name) for name in ("trial", "epoch", *terms)})
    return TrainingCurves(
        trials=trials,
        beta_by_trial=dict(zip(trials, numbers(shown, "beta").tolist(), strict=True)),
        terms=terms,
        order=next(iter(objectives)),
        is_frontier=len(objectives) > 1,
        curves=curves.astype({"trial": int}),
        frontier_size=len(frontier(record)),
    )


def spread_over_frontier(record: StudyRecord, most: int) -> pd.DataFrame:
    """At most `most` trials with a history, as `training_curves` takes them; no row where there is none."""
    members = frontier(record) if len(objective_signs(record.spec)) > 1 else _best(record, most)
    members = members[members["trial"].isin(record.history["trial"])].reset_index(drop=True)
    return members.iloc[_spread(len(members), most, _champion_place(record, members))] if len(members) else members


def _best(record: StudyRecord, most: int) -> pd.DataFrame:
    """The best finished, feasible trials by a single objective, the best first."""
    finished = feasible(with_state(record, "finished"))
    values = minimized_objectives(finished, record.spec)[:, 0]
    order = np.argsort(values, kind="stable")[: min(most, int(np.isfinite(values).sum()))]
    return finished.iloc[order].reset_index(drop=True)


def _terms(history: pd.DataFrame) -> tuple[str, ...]:
    known = [name for name in (*TERMS, *TERMS_WITHOUT_RATE) if np.isfinite(numbers(history, name)).any()]
    return tuple(name for name in (TERMS if "val/kl" in known else TERMS_WITHOUT_RATE) if name in known)


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
