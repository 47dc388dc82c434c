"""Reading a record's frames: a missing column or value becomes NaN, so that callers need no special case."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.tracking.record import StudyRecord

Floats = NDArray[np.float64]
Images = NDArray[np.float32]
FIXED = ("trial", "state", "failure", "run_id")
# Columns that exist only once the study has a trial.
LATER = ("reason", "preemptions", "feasible", "device")
STATES = ("finished", "pruned", "failed", "running", "waiting")


@dataclass(frozen=True)
class Missing:
    """A table that cannot be made.

    Attributes:
        why: A sentence for the reader.
    """

    why: str


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; NaN where unknown."""

    value: float
    low: float = np.nan
    high: float = np.nan


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


def devices(record: StudyRecord) -> dict[str, int]:
    """What the trials were trained on, such as "cuda, NVIDIA L4", each with how many; the most frequent first."""
    known = record.trials["device"].dropna() if "device" in record.trials else pd.Series(dtype=str)
    return {str(name): int(trials) for name, trials in known.value_counts().items()}


def row_of(record: StudyRecord, trial: int) -> pd.DataFrame:
    """A trial's row, as a frame of one row, or of none."""
    return record.trials[record.trials["trial"] == trial]


def scalar(frame: pd.DataFrame, name: str) -> float:
    """A column's first value, NaN where there is none."""
    values = numbers(frame, name)
    return float(values[0]) if len(values) else float("nan")


def texts(column: "pd.Series[Any]") -> list[str]:
    """Labels and row numbers as text: whole numbers without a point, a dash where one is missing."""
    return [f"{x:.15g}" if isinstance(x, float) and np.isfinite(x) else "–" if pd.isna(x) else str(x) for x in column]


def feature_names(data: Mapping[str, Any], features: int) -> tuple[str, ...]:
    """The data summary's names, or numbers where it does not have as many."""
    names = tuple(str(name) for name in data.get("feature_names") or ())
    return names if len(names) == features else tuple(f"feature {i + 1}" for i in range(features))


def kept_by_sweeps(record: StudyRecord) -> pd.DataFrame:
    """The trials that are models which a sweep kept along its path of beta, with its number in `sweep`."""
    trials = record.trials.assign(sweep=numbers(record.trials, "sweep"))
    return trials[trials["sweep"] >= 0]


def epochs_trained(record: StudyRecord) -> "pd.Series[int]":
    """How many epochs each trial trained, by its number; an epoch that was trained again counts once."""
    return record.history.drop_duplicates(["trial", "epoch"]).groupby("trial").size()


def image_shape(data: Any, features: int) -> tuple[int, ...] | None:
    """The data summary's image shape, None where it has none or does not hold this many features."""
    shape = tuple(int(side) for side in data.get("image_shape") or ())
    return shape if len(shape) in (2, 3) and int(np.prod(shape)) == features else None


def shaped(flat: Images, shape: tuple[int, ...] | None) -> Images:
    """Images with the channels last (and no axis for a single one), or rows as they are."""
    flat = flat.reshape(len(flat), -1)
    if shape is None:
        return flat
    images = flat.reshape(len(flat), *shape)
    if len(shape) == 3 and shape[0] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[-1] != 3:
        images = images[..., 0]
    return images
