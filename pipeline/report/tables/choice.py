"""Which model to take: by which rule, what another rule would have taken, and what should make one doubt it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.report.tables.frames import (
    Interval,
    numbers,
    row_of,
    scalar,
    search_range,
    searched_parameters,
    trial_numbers,
    with_state,
)
from pipeline.tracking.record import StudyRecord

RULES = ("val/auroc", "val/elbo")
COLLAPSED_KL_NATS = 0.05
EDGE_SHARE = 0.05
LARGER_IS_BETTER = ("auroc", "auroc_low", "auprc", "elbo", "active_units", "probe_accuracy")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The trial that a rule takes.

    Attributes:
        rule: The metric, such as "val/elbo".
        trial: The trial's number.
        value: The rule's metric at that trial.
        test_auroc: Its AUROC on the test split, which no rule sees.
        chosen: Whether the study chose its model by this rule.
    """

    rule: str
    trial: int
    value: float
    test_auroc: Interval
    chosen: bool


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


def best(trials: pd.DataFrame, metric: str) -> int | None:
    """The trial with the best value of a metric, the first of equals; None where no value is finite."""
    larger_is_better = metric.rpartition("/")[2] in LARGER_IS_BETTER
    values = numbers(trials, metric) * (1.0 if larger_is_better else -1.0)
    values[~np.isfinite(values)] = -np.inf
    return int(trials["trial"].iloc[values.argmax()]) if np.isfinite(values).any() else None


def stored_auroc(trial: pd.DataFrame) -> Interval:
    """A trial's AUROC on the test split with its stored interval; `trial` is a frame of one row."""
    value, low, high = (scalar(trial, f"test/{name}") for name in ("auroc", "auroc_low", "auroc_high"))
    return Interval(value=value, low=low, high=high)


def choices(record: StudyRecord) -> tuple[Choice, ...]:
    """What each rule takes among the finished trials; the study's own rule comes first."""
    champion = record.champion
    taken = {champion.rule: champion.trial} if champion else {}
    for rule in RULES:
        trial = best(with_state(record, "finished"), rule)
        if trial is not None:
            taken.setdefault(rule, trial)
    return tuple(_choice(record, rule, trial) for rule, trial in taken.items())


def _choice(record: StudyRecord, rule: str, trial: int) -> Choice:
    row = row_of(record, trial)
    chosen = record.champion is not None and record.champion.rule == rule
    return Choice(rule=rule, trial=trial, value=scalar(row, rule), test_auroc=stored_auroc(row), chosen=chosen)


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


def edges(record: StudyRecord) -> tuple[Edge, ...]:
    """Where the trials that the rules take lie at the edge of the search."""
    trials = dict.fromkeys(choice.trial for choice in choices(record))
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
