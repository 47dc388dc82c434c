"""Irregular times on a regular grid: of the rows within a step, numbers have the mean, categories the last."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vae_study.data.table import Table
from vae_study.data.windows import Flags, Ids, SequenceInput, require_ascending, series_order
from vae_study.errors import UserError

# With more empty steps than this for each that has a row, the step is a mistake, and memory would be full of nothing.
MOST_EMPTY = 10
# Steps are counted from time 0 in 64 bits.
LARGEST_STEP = 2**62


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """A table whose rows are steps, series by series.

    Attributes:
        table: R steps. Its times are the beginnings of steps, which are multiples of the step's length.
        is_anomaly_R: Whether one of a step's rows is anomalous.
        step_N: The step of each row of the table before.
    """

    table: Table
    is_anomaly_R: Flags
    step_N: Ids


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """How rows became steps.

    Attributes:
        rows, steps: How many there are, of steps those with a row.
        shared_rows, shared_steps: Those where a step has several rows.
        empty: Steps without a row.
    """

    rows: int = 0
    steps: int = 0
    shared_rows: int = 0
    shared_steps: int = 0
    empty: int = 0

    @classmethod
    def of(cls, size_M: Ids, empty: int) -> Self:
        """Of steps with so many rows each, and empty ones."""
        shared_M = size_M[size_M > 1]
        return cls(
            rows=int(size_M.sum()),
            steps=len(size_M),
            shared_rows=int(shared_M.sum()),
            shared_steps=len(shared_M),
            empty=empty,
        )

    def __add__(self, other: Self) -> Self:
        """The counts of both."""
        return replace(self, **{name: value + getattr(other, name) for name, value in vars(self).items()})

    def note(self, sequence: SequenceInput) -> str:
        """What a user should know."""
        mean = f"{self.shared_rows:,} rows share {self.shared_steps:,} of these and are averaged"
        found = [f"{self.steps:,} steps with a row", mean if self.shared_steps else ""]
        found.append(f"{self.empty:,} steps are empty" if self.empty else "")
        length = sequence.duration(sequence.step)
        return f"{self.rows:,} rows become steps of {length}: {'; '.join(filter(None, found))}"


def resample(table: Table, sequence: SequenceInput, is_anomaly_N: Flags | None = None) -> Resampled:
    """Bring the rows of each series to steps of one length.

    A number is the mean of a step's values, a category the last one. A step is anomalous if one of its rows is, and has
    the label of its last anomalous row, or of its last one. Steps without a row are filled in where `sequence.fills`:
    all their values are missing, and they are anomalous if the steps around them are.

    Raise UserError if times descend within a series, or if nearly all steps would be empty.

    Args:
        table: N rows with times.
        sequence: Its `resample` is the length of a step.
        is_anomaly_N: By default none is.
    """
    assert table.time_N is not None
    assert sequence.resample is not None
    order_N, group_N = series_order(table)
    group_N, is_anomaly_N = group_N[order_N], np.zeros(len(order_N), bool) if is_anomaly_N is None else is_anomaly_N
    is_new_N = np.append(True, group_N[1:] != group_N[:-1])
    require_ascending(table, sequence, order_N, is_new_N)
    number_N = _step_numbers(table, sequence)[order_N]
    first_M = np.flatnonzero(is_new_N | np.append(True, number_N[1:] != number_N[:-1]))
    number_M = number_N[first_M]
    # How many empty steps stand before each step that has a row.
    empty_M = np.append(0, np.diff(number_M) - 1)
    is_close_M = (empty_M + 1) * sequence.resample <= sequence.limit
    empty_M = np.where(is_new_N[first_M] | ~is_close_M | (not sequence.fills), 0, empty_M)
    place_M = np.cumsum(1 + empty_M) - 1
    if empty_M.sum() > MOST_EMPTY * len(first_M):
        said = f"data.sequence.resample: steps of {sequence.duration(sequence.resample)} give {table.where}"
        counts = f"{int(empty_M.sum()):,} steps without a row, and {len(first_M):,} with one"
        raise UserError(f"{said} {counts}; expected longer steps, or a smaller max_gap")
    steps = int(place_M[-1]) + 1
    next_R = np.searchsorted(place_M, np.arange(steps))
    # An empty step has the label and the row of the step before it, or if that is anomalous those of the next one.
    any_M = np.logical_or.reduceat(is_anomaly_N[order_N], first_M)
    is_empty_R = place_M[next_R] != np.arange(steps)
    like_R = np.where(is_empty_R & ~any_M[next_R - 1], next_R - 1, next_R)
    shown_M = order_N[_last(is_anomaly_N[order_N] | ~np.repeat(any_M, _sizes(first_M, len(order_N))), first_M)]
    # A mean is the same whether the other numbers are exact in float32 or not.
    x_RD = np.full((steps, table.x_ND.shape[1]), np.nan, np.float64)
    for column in range(x_RD.shape[1]):
        x_RD[place_M, column] = _means(table.x_ND[order_N, column], first_M)
    code_RC = np.full((steps, len(table.category_names)), -1, np.int32)
    for column in range(code_RC.shape[1]):
        code_N = table.code_NC[order_N, column]
        last_M = _last(code_N >= 0, first_M)
        code_RC[place_M, column] = np.where(last_M < 0, -1, code_N[last_M])
    time_R = (number_M[next_R] - (place_M[next_R] - np.arange(steps))) * _length(sequence)
    step_N = np.empty(len(order_N), np.int64)
    step_N[order_N] = np.repeat(place_M, _sizes(first_M, len(order_N)))
    shown_R = shown_M[like_R]
    fields: dict[str, Any] = {
        "x_ND": x_RD,
        "code_NC": code_RC if table.category_names else table.code_NC,
        "label_N": None if table.label_N is None else table.label_N[shown_R],
        "time_N": time_R,
        "series_N": None if table.series_N is None else table.series_N[shown_R],
        "row_N": shown_R,
        "notes": (*table.notes, StepCounts.of(_sizes(first_M, len(order_N)), int(is_empty_R.sum())).note(sequence)),
    }
    return Resampled(table=replace(table, **fields), is_anomaly_R=any_M[like_R], step_N=step_N)


def _length(sequence: SequenceInput) -> Any:
    return int(sequence.resample or 0) if sequence.is_moment else sequence.resample


def _step_numbers(table: Table, sequence: SequenceInput) -> Ids:
    """The number of each row's step, counted from time 0, (N,)."""
    time_N, length = table.time_N, _length(sequence)
    assert time_N is not None
    if sequence.is_moment:
        return np.asarray(time_N // length, np.int64)
    number_N = np.floor(time_N / length)
    if not (np.abs(number_N) < LARGEST_STEP).all():
        got = f"data.sequence.resample: got {length:g}"
        raise UserError(f"{got}, too small for times of up to {np.abs(time_N).max():g} in {table.where}")
    return np.asarray(number_N, np.int64)


def _sizes(first_M: Ids, count: int) -> Ids:
    size_M: Ids = np.diff(np.append(first_M, count))
    return size_M


def _means(x_N: NDArray[np.floating], first_M: Ids) -> NDArray[np.float64]:
    """The mean of the values of each step that are there, NaN where none is."""
    is_there_N = ~np.isnan(x_N)
    total_M = np.add.reduceat(np.where(is_there_N, x_N, 0).astype(np.float64), first_M)
    count_M = np.add.reduceat(is_there_N, first_M, dtype=np.int64)
    return np.where(count_M > 0, total_M / np.maximum(count_M, 1), np.nan)


def _last(is_wanted_N: Flags, first_M: Ids) -> Ids:
    """The last place in each step that is wanted, -1 where none is."""
    place_N = np.where(is_wanted_N, np.arange(len(is_wanted_N)), -1)
    last_M: Ids = np.maximum.reduceat(place_N, first_M)
    return last_M
