"""The searched parameters: their columns, ranges and values as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vae_study.report.frames import Floats, finite, numbers, row_of, scalar
from vae_study.tracking.record import StudyRecord

FIRST_PARAMETERS = ("beta", "latent_dim")
PREFIXES = ("objective.", "model.")


def short_name(name: str, columns: Sequence[str]) -> str | None:
    """The column of a parameter that the config may name with or without its prefix; None where there is none."""
    short = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
    return next((column for column in (name, short, *(p + name for p in PREFIXES)) if column in columns), None)


def searched_parameters(record: StudyRecord) -> tuple[str, ...]:
    """Columns of the searched parameters as in the config, after beta and latent size, even where those are fixed."""
    columns = list(record.trials.columns)
    names = (short_name(name, columns) for name in (*FIRST_PARAMETERS, *record.config.get("search", {})))
    return tuple(dict.fromkeys(name for name in names if name is not None))


def search_range(record: StudyRecord, column: str) -> dict[str, Any]:
    """What the config says about a searched parameter: low, high, log, type or choices; empty where it is fixed."""
    search = record.config.get("search", {})
    return next((dict(rule) for name, rule in search.items() if short_name(name, [column]) == column), {})


def setting(record: StudyRecord, trial: int, name: str) -> Any:
    """A trial's value of a model setting such as "codebook.size": searched, else fixed in the config, else None."""
    row = row_of(record, trial)
    column = short_name(name, list(row.columns))
    if column is not None and len(row) and pd.notna(row[column].iloc[0]):
        return row[column].iloc[0]
    part: Any = record.config.get("model", {})
    for key in name.split("."):
        part = part.get(key) if isinstance(part, Mapping) else None
    return part


def has_rate(record: StudyRecord, trial: int) -> bool:
    """Whether a trial's code costs nats. One that measured its reconstruction but no KL has a deterministic code."""
    row = row_of(record, trial)
    known = [np.isfinite(scalar(row, name)) for name in ("val/reconstruction", "val/kl", "test/kl")]
    return bool(not known[0] or known[1] or known[2])


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One searched parameter of N trials.

    Attributes:
        name: Its column.
        is_log: Whether it was searched on a log scale.
        choices: Of a categorical parameter, as text, in the order of the config; None of a number.
        value_N: Its values, the indices of the choices; NaN where a branch does not have it.
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
    values = ((c, np.unique(c.value_N[np.isfinite(c.value_N)])) for c in found)
    return tuple(c for c, known in values if len(known) >= (1 if search_range(record, c.name) else 2))


def word(value: Any) -> str:
    """A choice as text, the same for a config's value and for what the store made of it."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float | np.number):
        return f"{float(value):.15g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _coordinate(record: StudyRecord, trials: pd.DataFrame, name: str) -> Coordinate:
    rule, value_N = search_range(record, name), finite(numbers(trials, name))
    known_N = np.isfinite(value_N)
    if "choices" in rule or (trials[name].notna() & ~known_N).any():
        texts = trials[name].map(word, na_action="ignore")
        choices = tuple(dict.fromkeys([*map(word, rule.get("choices") or ()), *sorted(texts.dropna().unique())]))
        index_of = {choice: float(i) for i, choice in enumerate(choices)}
        value_N, high = texts.map(index_of).to_numpy(np.float64, na_value=np.nan), float(len(choices) - 1)
        return Coordinate(name=name, is_log=False, choices=choices, value_N=value_N, low=0.0, high=high)
    ends = [float(end) for end in (rule.get("low"), rule.get("high")) if end is not None]
    within = [*value_N[known_N], *ends]
    low, high = min(within, default=np.nan), max(within, default=np.nan)
    is_log = bool(rule.get("log") and low > 0)
    return Coordinate(name=name, is_log=is_log, choices=None, value_N=value_N, low=float(low), high=float(high))
