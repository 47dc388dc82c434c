"""A record's frames, read so that a missing column, value or whole frame is no special case elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.tracking.record import StudyRecord

Floats = NDArray[np.float64]

FIXED = ("trial", "state", "failure", "run_id")
# What a study of an earlier version does not know of its trials.
LATER = ("reason", "preemptions", "feasible")
STATES = ("finished", "stopped", "failed", "running", "waiting")
FIRST_PARAMETERS = ("beta", "latent_dim")
PREFIXES = ("objective.", "model.")


@dataclass(frozen=True)
class Missing:
    """A table that cannot be made.

    Attributes:
        why: A sentence for the reader.
    """

    why: str


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % bootstrap interval; NaN where unknown."""

    value: float
    low: float = np.nan
    high: float = np.nan


def tidy(record: StudyRecord) -> StudyRecord:
    """The same record with rows and columns in one order, whatever order the store returned them in.

    Trials are ordered by number, and their columns as FIXED, LATER, searched parameters, other parameters, metrics.
    """
    trials = record.trials.reindex(columns=list(dict.fromkeys([*FIXED, *record.trials.columns])))
    trials = trials.astype({"state": object, "failure": object}).sort_values("trial", ignore_index=True)
    later = [name for name in LATER if name in trials.columns]
    rest = sorted(set(trials.columns) - set(FIXED), key=lambda name: ("/" in name, name))
    names = [*FIXED, *later, *searched_parameters(record), *rest]
    history = record.history.reindex(columns=list(dict.fromkeys(["trial", "epoch", *sorted(record.history.columns)])))
    return replace(
        record,
        trials=trials[list(dict.fromkeys(names))],
        history=history.sort_values(["trial", "epoch"], ignore_index=True),
        confirmations=_confirmations(record.confirmations),
    )


def _confirmations(rows: pd.DataFrame) -> pd.DataFrame:
    """By trial and seed, each pair once: the last, where a seed was trained again."""
    rows = rows.reindex(columns=list(dict.fromkeys(["trial", "seed", *sorted(rows.columns)])))
    rows = rows.drop_duplicates(["trial", "seed"], keep="last")
    return rows.sort_values(["trial", "seed"], ignore_index=True)


def numbers(frame: pd.DataFrame, name: str) -> Floats:
    """A column as floats, NaN where a value is missing or no number; all NaN where the column is missing."""
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    return pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def finite(value_N: Floats) -> Floats:
    """The values with NaN in place of infinite ones."""
    return np.where(np.isfinite(value_N), value_N, np.nan)


def with_state(record: StudyRecord, state: str) -> pd.DataFrame:
    """The trials in one state."""
    return record.trials[record.trials["state"].eq(state)].reset_index(drop=True)


def trial_numbers(frame: pd.DataFrame) -> tuple[int, ...]:
    """The trial numbers of a frame's rows."""
    return tuple(int(trial) for trial in frame["trial"])


def row_of(record: StudyRecord, trial: int) -> pd.DataFrame:
    """A trial's row, as a frame of one row, or of none."""
    return record.trials[record.trials["trial"] == trial]


def scalar(frame: pd.DataFrame, name: str) -> float:
    """A column's first value, NaN where there is none."""
    values = numbers(frame, name)
    return float(values[0]) if len(values) else float("nan")


def short_name(name: str, columns: Sequence[str]) -> str | None:
    """The column of a parameter that the spec may name with or without its prefix; None where there is none."""
    short = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
    return next((column for column in (name, short, *(p + name for p in PREFIXES)) if column in columns), None)


def searched_parameters(record: StudyRecord) -> tuple[str, ...]:
    """Columns of the searched parameters as in the spec, after beta and latent size, even where those are fixed."""
    columns = list(record.trials.columns)
    names = (short_name(name, columns) for name in (*FIRST_PARAMETERS, *record.spec.get("search", {})))
    return tuple(dict.fromkeys(name for name in names if name is not None))


def search_range(record: StudyRecord, column: str) -> dict[str, Any]:
    """What the spec says about a searched parameter: low, high, log, type or choices; empty where it is fixed."""
    search = record.spec.get("search", {})
    return next((dict(rule) for name, rule in search.items() if short_name(name, [column]) == column), {})


def setting(record: StudyRecord, trial: int, name: str) -> Any:
    """A trial's value of a model setting such as "codebook.size": searched, else fixed in the spec, else None."""
    row = row_of(record, trial)
    column = short_name(name, list(row.columns))
    if column is not None and len(row) and pd.notna(row[column].iloc[0]):
        return row[column].iloc[0]
    part: Any = record.spec.get("model", {})
    for key in name.split("."):
        part = part.get(key) if isinstance(part, Mapping) else None
    return part


def texts(column: "pd.Series[Any]") -> list[str]:
    """Labels and row numbers as text: whole numbers without a point, a dash where one is missing."""
    return [f"{x:.15g}" if isinstance(x, float) and np.isfinite(x) else "–" if pd.isna(x) else str(x) for x in column]


def feature_names(data: Mapping[str, Any], features: int) -> tuple[str, ...]:
    """The data summary's names, or numbers where it does not have as many."""
    names = tuple(str(name) for name in data.get("feature_names") or ())
    return names if len(names) == features else tuple(f"feature {i + 1}" for i in range(features))


def has_rate(record: StudyRecord, trial: int) -> bool:
    """Whether a trial's code costs nats. One that measured its reconstruction but no KL has a point code."""
    row = row_of(record, trial)
    known = [np.isfinite(scalar(row, name)) for name in ("val/reconstruction", "val/kl", "test/kl")]
    return bool(not known[0] or known[1] or known[2])
