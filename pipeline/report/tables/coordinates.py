"""Searched parameters as numbers, and what the finished trials are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report.tables.frames import Floats, finite, numbers, search_range, searched_parameters, with_state
from pipeline.report.tables.frontier import objective_signs
from pipeline.report.tables.scored import auroc_metric
from pipeline.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One searched parameter of N trials.

    Attributes:
        name: Its column.
        is_log: Whether it was searched on a log scale.
        choices: Of a categorical parameter, as text, in the order of the spec; None of a number.
        value_N: Its values, the places of the choices; NaN where a branch does not have it.
        low, high: The ends of the search, or of the values where these lie beyond or where it was not searched.
    """

    name: str
    is_log: bool
    choices: tuple[str, ...] | None
    value_N: Floats
    low: float
    high: float

    @property
    def scaled_N(self) -> Floats:
        """The values on the scale of the search."""
        return np.log(self.value_N) if self.is_log else self.value_N

    @property
    def scaled_ends(self) -> tuple[float, float]:
        """The ends on the scale of the search."""
        low, high = np.log([self.low, self.high]) if self.is_log else (self.low, self.high)
        return float(low), float(high)


def coordinates(record: StudyRecord, trials: pd.DataFrame) -> tuple[Coordinate, ...]:
    """The searched parameters that any of these trials has; beta and latent size, too, where they vary unsearched."""
    found = (_coordinate(record, trials, name) for name in searched_parameters(record))
    return tuple(
        c for c in found if np.isfinite(c.value_N).any() and (search_range(record, c.name) or _varies(c.value_N))
    )


def targets(record: StudyRecord) -> tuple[str, ...]:
    """The objectives, then the AUROC of validation where a finished trial has one."""
    auroc = auroc_metric(record, "val")
    known = np.isfinite(numbers(with_state(record, "finished"), auroc)).any()
    return tuple(dict.fromkeys((*objective_signs(record.spec), *([auroc] if known else ()))))


def word(value: Any) -> str:
    """A choice as text, the same for a spec's value and for what the store made of it."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float | np.number):
        return f"{float(value):.15g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _varies(value_N: Floats) -> bool:
    return len(np.unique(value_N[np.isfinite(value_N)])) > 1


def _coordinate(record: StudyRecord, trials: pd.DataFrame, name: str) -> Coordinate:
    rule, value_N = search_range(record, name), finite(numbers(trials, name))
    known_N = np.isfinite(value_N)
    if "choices" in rule or (trials[name].notna() & ~known_N).any():
        return _categorical(name, trials[name], rule.get("choices") or ())
    ends = [float(end) for end in (rule.get("low"), rule.get("high")) if end is not None]
    within = [*value_N[known_N], *ends]
    low, high = min(within, default=np.nan), max(within, default=np.nan)
    is_log = bool(rule.get("log") and low > 0)
    return Coordinate(name=name, is_log=is_log, choices=None, value_N=value_N, low=float(low), high=float(high))


def _categorical(name: str, column: "pd.Series[Any]", given: Sequence[Any]) -> Coordinate:
    texts = column.map(word, na_action="ignore")
    choices = tuple(dict.fromkeys([*map(word, given), *sorted(texts.dropna().unique())]))
    place = texts.map({choice: float(i) for i, choice in enumerate(choices)}).to_numpy(np.float64, na_value=np.nan)
    return Coordinate(name=name, is_log=False, choices=choices, value_N=place, low=0.0, high=float(len(choices) - 1))
