"""What should make one doubt a study's choice: codes that say nothing, and good trials at the edge of the search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report.tables.choice import Choice
from pipeline.report.tables.frames import (
    numbers,
    row_of,
    scalar,
    search_range,
    searched_parameters,
    trial_numbers,
    with_state,
)
from pipeline.report.tables.frontier import frontier
from pipeline.tracking.record import StudyRecord

COLLAPSED_KL_NATS = 0.05
EDGE_SHARE = 0.05
# An epoch's weight is the mean over its steps, so that the first full epoch has 1 but for rounding.
FULL_WEIGHT = 0.99


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A good trial whose parameter lies within 5 % of an end of the searched range, so that better may lie beyond.

    Attributes:
        parameter: The searched parameter.
        end: "lower" or "upper".
        limit: The range's end.
        value: The trial's value.
        trial: The trial's number.
    """

    parameter: str
    end: str
    limit: float
    value: float
    trial: int


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Finished trials whose code says nothing: as they stored it, else no active unit or a KL below 0.05 nats.

    Attributes:
        trials: Their numbers.
        known: Finished trials of which it is known.
        smallest_beta: The smallest beta among them, NaN where there is none.
        with_kl: Whether any finished trial has a KL.
    """

    trials: tuple[int, ...]
    known: int
    smallest_beta: float
    with_kl: bool


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Trials that ended before their KL weight had reached 1, so that their KL is that of another objective.

    Attributes:
        finished, stopped: Their numbers, by how they ended.
        frontier: Those of them on the frontier.
    """

    finished: tuple[int, ...]
    stopped: tuple[int, ...]
    frontier: tuple[int, ...]


def warm_up(record: StudyRecord) -> WarmUp:
    """Whose KL weight never came to 1; a cyclical one is no warm-up, and within an epoch may rise and fall again."""
    history = record.history.assign(weight=numbers(record.history, "train/kl_weight"))
    highest = history.groupby("trial")["weight"].max()
    rising = record.trials[_schedules(record) != "cyclical"]
    short = rising[rising["trial"].isin(highest.index[highest < FULL_WEIGHT])]
    finished, stopped = (short[short["state"].eq(state)] for state in ("finished", "stopped"))
    members = finished[finished["trial"].isin(frontier(record)["trial"])]
    return WarmUp(finished=trial_numbers(finished), stopped=trial_numbers(stopped), frontier=trial_numbers(members))


def _schedules(record: StudyRecord) -> "pd.Series[Any]":
    """Each trial's schedule of the KL weight: searched, else fixed in the spec."""
    fixed = ((record.spec.get("objective") or {}).get("kl_annealing") or {}).get("schedule")
    searched = record.trials.get("kl_annealing.schedule", pd.Series(None, index=record.trials.index, dtype=object))
    return searched.where(searched.notna(), fixed)


def collapse(record: StudyRecord) -> Collapse:
    """The finished trials with a collapsed code."""
    finished = with_state(record, "finished")
    stored, units, kl_nats = (numbers(finished, f"val/{name}") for name in ("collapsed", "active_units", "kl"))
    derived = (units < 1) | (kl_nats < COLLAPSED_KL_NATS)
    collapsed = finished[np.where(np.isfinite(stored), stored >= 0.5, derived)]
    betas = numbers(collapsed, "beta")
    return Collapse(
        trials=trial_numbers(collapsed),
        known=int(np.isfinite([stored, units, kl_nats]).any(axis=0).sum()),
        smallest_beta=float(np.nanmin(betas)) if np.isfinite(betas).any() else float("nan"),
        with_kl=bool(np.isfinite(kl_nats).any()),
    )


def edges(record: StudyRecord, choices: Sequence[Choice]) -> tuple[Edge, ...]:
    """Where the trials that the rules take lie at the edge of the search."""
    trials = dict.fromkeys(trial for choice in choices if choice.kind == "rule" for trial in choice.trials)
    found = (_edge(record, name, trial) for trial in trials for name in searched_parameters(record))
    return tuple(edge for edge in found if edge is not None)


def _edge(record: StudyRecord, name: str, trial: int) -> Edge | None:
    rule, value = search_range(record, name), scalar(row_of(record, trial), name)
    if "low" not in rule or "high" not in rule or not np.isfinite(value):
        return None
    low, high = float(rule["low"]), float(rule["high"])
    scale = np.log if rule.get("log") and low > 0 and value > 0 else float
    share = (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5
    if EDGE_SHARE < share < 1 - EDGE_SHARE:
        return None
    end, limit = ("lower", low) if share <= EDGE_SHARE else ("upper", high)
    return Edge(parameter=name, end=end, limit=limit, value=value, trial=trial)
