"""Windows of time series: which rows follow one another, where windows start, and windows as views of the rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.config.data import SequenceConfig, SplitConfig
from vae_study.data.splits import (
    SPLIT_NAMES,
    TRAIN,
    DuplicateGroups,
    SplitAssignment,
    SplitIndices,
    split_at_random,
)
from vae_study.data.table import Table
from vae_study.errors import UserError

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
# Without data.sequence.max_gap, times may be this many usual steps apart: a clock jitters, a lost row leaves two.
LARGEST_STEPS = 1.5


class Windows:
    """N windows of T steps of F features, which overlap in memory: a view of the rows and where each window starts.

    It is indexed as an array (N, T * F) is, by a slice, indices or a mask, and gives copies of these windows only.

    Attributes:
        rows_RF: The rows in time, series behind series: an array of numpy or a tensor.
        start_N: The row with which each window starts, of the same kind.
        steps: T.
    """

    def __init__(self, rows_RF: Any, start_N: Any, steps: int):
        """Make the view; nothing is copied."""
        self.rows_RF, self.start_N, self.steps = rows_RF, start_N, steps
        rows, features = rows_RF.shape
        shape, width = (max(rows - steps + 1, 0), steps * features), rows_RF.dtype.itemsize
        if isinstance(rows_RF, np.ndarray):
            view = np.lib.stride_tricks.as_strided(rows_RF, shape, (features * width, width), writeable=False)
            # A memory-mapped file's class says nothing about its windows.
            self._every = np.asarray(view)
        else:
            self._every = rows_RF.as_strided(shape, (features, 1))

    def __len__(self) -> int:
        """N."""
        return len(self.start_N)

    @property
    def shape(self) -> tuple[int, int]:
        """N and T * F."""
        return len(self.start_N), self._every.shape[1]

    @property
    def dtype(self) -> Any:
        """That of the rows."""
        return self.rows_RF.dtype

    @property
    def device(self) -> Any:
        """That of the rows, if they are a tensor."""
        return self.rows_RF.device

    def __getitem__(self, key: Any) -> Any:
        """Copies of some windows, (n, T * F)."""
        return self._every[self.start_N[key]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Copies of all windows, T times as large as the rows."""
        return np.asarray(self[:], dtype)

    def astype(self, dtype: Any) -> NDArray[Any]:
        """Copies of all windows in another type."""
        return np.asarray(self, dtype)

    def only(self, chosen: Any) -> "Windows":
        """Some of the windows, as views."""
        return Windows(self.rows_RF, self.start_N[chosen], self.steps)


@dataclass(frozen=True, kw_only=True)
class SequenceInput:
    """How rows become windows; it is saved with a model.

    Attributes:
        time, series: The columns; series is None if the table is one series.
        steps: Rows of a window.
        step: The usual time from row to row, in nanoseconds if times are moments, else in the column's own unit.
        limit: A series is cut where two times are further apart.
        cuts: Whether it is; otherwise such a gap is an error.
        is_moment: Whether times are moments.
    """

    time: str
    series: str | None
    steps: int
    step: float
    limit: float
    cuts: bool
    is_moment: bool

    @classmethod
    def of(cls, table: Table, config: SequenceConfig) -> Self:
        """Take the usual step from a table's times.

        Raise UserError if the table has no times, or if max_gap is a duration where times are numbers.
        """
        if table.time_N is None:
            raise UserError(f"data.sequence: {table.where} has no columns; expected a table with data.sequence.time")
        order_N, group_N = series_order(table)
        differences_N = np.diff(table.time_N[order_N])[np.diff(group_N[order_N]) == 0]
        ascending_N = differences_N[differences_N > 0]
        step = float(np.median(ascending_N)) if len(ascending_N) else 1.0
        gap, limit = config.max_gap, LARGEST_STEPS * step
        if gap is not None:
            if isinstance(gap, str) != table.is_moment:
                expected = "a duration such as 5s" if table.is_moment else "a number, in the unit of the column"
                got = f"data.sequence.max_gap: got {gap!r}"
                raise UserError(f"{got}, expected {expected}, as column {config.time!r} has them")
            limit = float(pd.Timedelta(gap).value) if isinstance(gap, str) else float(gap)
        return cls(
            time=config.time, series=config.series, steps=config.window, step=step, limit=limit,
            cuts=gap is not None, is_moment=table.is_moment,
        )  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that order the rows."""
        return (self.time,) if self.series is None else (self.time, self.series)

    @property
    def order(self) -> tuple[str, str | None]:
        """The columns of times and series."""
        return self.time, self.series

    def windows_for(self, table: Table) -> Windows:
        """A window for each row of a table, the one that ends with it; at first, the first window of its segment.

        Raise UserError if the times are wrong, or if a segment is shorter than a window.

        Args:
            table: Its x_ND are the features.
        """
        assert table.time_N is not None
        if table.is_moment != self.is_moment:
            kinds = ("times", "numbers") if table.is_moment else ("numbers", "times")
            raise UserError(f"{table.where}: column {self.time!r}: got {kinds[0]}, expected {kinds[1]}, as in training")
        segments = Segments.of(table, self)
        short_S = segments.length_S < self.steps
        if short_S.any():
            first = int(np.flatnonzero(short_S)[0])
            row = segments.order_N[segments.first_S[first]] + 1
            said = f"{int(short_S.sum()):,} of {len(short_S):,} segments without a gap are shorter than a window"
            place = f"the first has {segments.length_S[first]:,} (from row {row:,} on)"
            raise UserError(f"{table.where}: {said}, {place}; expected at least {self.steps} rows in each")
        order_N, start_N = segments.order_N, np.empty(len(segments.order_N), np.int64)
        start_N[order_N] = segments.window_of_row(self.steps)
        is_in_order = bool((order_N[1:] > order_N[:-1]).all())
        return Windows(table.x_ND if is_in_order else table.x_ND[order_N], start_N, self.steps)

    def duration(self, time: float) -> str:
        """A duration for people to read."""
        return str(pd.Timedelta(int(time), "ns")).removeprefix("0 days ") if self.is_moment else f"{time:g}"


@dataclass(frozen=True, kw_only=True)
class Segments:
    """The rows of a table in the order of their series and times, cut into S segments without a gap.

    Attributes:
        order_N: The rows' numbers in the table, series by series.
        first_S, length_S: Where each segment starts in that order, and its number of rows.
        notes: What was assumed.
    """

    order_N: Ids
    first_S: Ids
    length_S: Ids
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: Table, sequence: SequenceInput) -> Self:
        """Order the rows of a table.

        Raise UserError if times are not ascending within a series or occur twice, or if they are further apart
        than the limit where that does not cut a series.
        """
        assert table.time_N is not None
        order_N, group_N = series_order(table)
        time_N, group_N = table.time_N[order_N], group_N[order_N]
        is_new_N = np.append(True, group_N[1:] != group_N[:-1])
        later_N = np.append(np.zeros(1, table.time_N.dtype), np.diff(time_N))
        where = f"{table.where}: column {sequence.time!r}"
        each = " of a series" if sequence.series else ""
        for wrong_N, what, expected in (
            (later_N < 0, "times earlier than the row before", f"the rows{each} in the order of their times"),
            (later_N == 0, "times equal to the row before", f"each time once{each}; data.sequence.series names series"),
        ):
            wrong_N &= ~is_new_N
            if wrong_N.any():
                said = f"{int(wrong_N.sum()):,} of {len(time_N):,} {what}"
                raise UserError(f"{where}: {said}, the first in row {order_N[wrong_N][0] + 1:,}; expected {expected}")
        is_gap_N = (later_N > sequence.limit) & ~is_new_N
        notes = []
        if is_gap_N.any():
            step, largest = sequence.duration(sequence.step), sequence.duration(float(later_N[is_gap_N].max()))
            said = f"{int(is_gap_N.sum()):,} of {len(time_N):,} rows come more than {sequence.duration(sequence.limit)}"
            first = f"the first in row {order_N[is_gap_N][0] + 1:,}, the longest gap is {largest}"
            if not sequence.cuts:
                remedy = "data.sequence.max_gap cuts a series at longer gaps"
                raise UserError(f"{where}: {said} after the one before, {first}; expected steps of {step}; {remedy}")
            notes.append(f"{said} after the one before, and start a new segment: {first}")
        first_S = np.flatnonzero(is_new_N | is_gap_N)
        length_S = np.diff(np.append(first_S, len(time_N)))
        series = int(is_new_N.sum())
        said = f"{series:,} series" if sequence.series else "one series"
        usual = f"{said} with {len(time_N):,} rows {sequence.duration(sequence.step)} apart"
        return cls(
            order_N=order_N,
            first_S=first_S,
            length_S=length_S,
            notes=(f"{usual}, windows of {sequence.steps} rows", *notes),
        )

    def require_windows(self, table: Table, steps: int) -> None:
        """Raise UserError if all segments are shorter than a window."""
        longest = int(self.length_S.argmax())
        if self.length_S[longest] < steps:
            row = self.order_N[self.first_S[longest]] + 1
            several = f"{len(self.length_S):,} segments, of which the longest has" if len(self.length_S) > 1 else "got"
            got = f"{several} {self.length_S[longest]:,} row{'s' * bool(self.length_S[longest] > 1)}"
            raise UserError(
                f"{table.where}: {got} (from row {row:,} on); expected at least the {steps} of data.sequence.window"
            )

    def starts(self, steps: int, stride: int) -> Ids:
        """Where windows start: every `stride` rows, and one that ends with its segment, so that no row is left out."""
        parts, is_long_S = [], self.length_S >= steps
        for first, length in zip(self.first_S[is_long_S], self.length_S[is_long_S], strict=True):
            start_W = np.arange(first, first + length - steps + 1, stride)
            last = first + length - steps
            parts.append(start_W if start_W[-1] == last else np.append(start_W, last))
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def window_of_row(self, steps: int) -> Ids:
        """For each row in this order, where the window that ends with it starts; at first, the segment's first window.

        The segments have to be as long as a window.
        """
        start_N = np.arange(len(self.order_N)) - (steps - 1)
        return np.maximum(start_N, np.repeat(self.first_S, self.length_S))


def series_order(table: Table) -> tuple[Ids, Ids]:
    """The rows series by series, as they come within each, and the number of each row's series, both (N,)."""
    count = len(table.x_ND)
    if table.series_N is None:
        # Of millions of rows, each array is a quarter of 8 sensors' features.
        return np.arange(count), np.broadcast_to(np.int64(0), (count,))
    group_N = np.asarray(pd.factorize(table.series_N)[0], np.int64)
    return np.argsort(group_N, kind="stable"), group_N


@dataclass(frozen=True, kw_only=True)
class WindowSplit:
    """The windows of one split.

    Attributes:
        rows_R: The numbers of the rows in the table that its windows cover, in the order of their series and times.
        start_N: The place in rows_R at which each window starts.
        shown_N: The number in the table of each window's last anomalous row, of a normal window's last row.
    """

    rows_R: Ids
    start_N: Ids
    shown_N: Ids


def assign_windows(
    table: Table, is_anomaly_N: Flags, sequence: SequenceInput, stride: int, split: SplitConfig
) -> tuple[SplitAssignment, dict[str, WindowSplit]]:
    """Cut series into windows and assign each to a split: no row is in windows of two splits.

    By time, a window belongs to the period in which all its rows lie; those that reach over a limit of two periods are
    in no split. By group, all windows of a series are in one split. Windows of train have no anomalous row.

    Raise UserError if the times are wrong, if every segment is shorter than a window, or if a split has no normal one.
    """
    steps = sequence.steps
    segments = Segments.of(table, sequence)
    segments.require_windows(table, steps)
    start_W, anomalous_N = segments.starts(steps, stride), is_anomaly_N[segments.order_N]
    # The place of the last anomalous row so far, -1 before the first.
    last_N = np.maximum.accumulate(np.where(anomalous_N, np.arange(len(anomalous_N)), -1))
    is_anomaly_W = last_N[start_W + steps - 1] >= start_W
    if split.by == "time":
        period_N = _periods(table, split)[segments.order_N]
        first_W, last_W = period_N[start_W], period_N[start_W + steps - 1]
        split_W, notes = np.where(first_W == last_W, first_W, -1), [*_on_time(first_W, last_W, is_anomaly_W)]
    else:
        group_W = series_order(table)[1][segments.order_N[start_W]]
        groups = DuplicateGroups.of(np.asarray(pd.factorize(group_W)[0], np.int64), is_anomaly_W)
        split_W, notes = split_at_random(groups, [np.arange(len(groups.first_G))], split)[groups.group_N], []
    split_W = np.where((split_W == TRAIN) & is_anomaly_W, -1, split_W)
    short_S = segments.length_S < steps
    if short_S.any():
        rows = int(segments.length_S[short_S].sum())
        notes.append(f"segments shorter than a window, in no split: {int(short_S.sum()):,} with {rows:,} rows")
    found = {}
    for index, name in enumerate(SPLIT_NAMES):
        chosen_W = split_W == index
        if not (chosen_W & ~is_anomaly_W).any():
            got = f"data.split.{name}: got {getattr(split, name):g}"
            reasons = "".join(f"; {note}" for note in (*segments.notes, *notes))
            raise UserError(f"{got}, which leaves it no normal window{reasons}")
        found[name] = _window_split(segments.order_N, last_N, start_W[chosen_W], steps)
    sizes = ", ".join(f"{len(one.start_N):,} in {name}" for name, one in found.items())
    of_splits = {name: one.rows_R for name, one in found.items()}
    return SplitAssignment(rows=of_splits, notes=(*segments.notes, f"windows: {sizes}", *notes)), found


def _periods(table: Table, split: SplitConfig) -> SplitIndices:
    """The split of each row of a table by its time alone, (N,); equal times stay together."""
    assert table.time_N is not None
    sorted_N = np.sort(table.time_N)
    ends = np.round(np.cumsum([split.train, split.validation]) * len(sorted_N)).astype(np.int64)
    first, second = sorted_N[np.minimum(ends, len(sorted_N) - 1)]
    period_N: SplitIndices = np.add(table.time_N >= first, table.time_N >= second, dtype=np.int8)
    return period_N


def _window_split(order_N: Ids, last_N: Ids, start_W: Ids, steps: int) -> WindowSplit:
    # +1 where a window starts, -1 behind its end: positive sums are rows that some window covers.
    change_N = np.zeros(len(order_N) + 1, np.int32)
    np.add.at(change_N, start_W, 1)
    np.add.at(change_N, start_W + steps, -1)
    is_used_N = np.cumsum(change_N[:-1], dtype=np.int32) > 0
    place_N = np.cumsum(is_used_N) - 1
    end_W = start_W + steps - 1
    return WindowSplit(
        rows_R=order_N[is_used_N],
        start_N=place_N[start_W],
        shown_N=order_N[np.where(last_N[end_W] >= start_W, last_N[end_W], end_W)],
    )


def _on_time(first_W: SplitIndices, last_W: SplitIndices, is_anomaly_W: Flags) -> Iterator[str]:
    reach = int((first_W != last_W).sum())
    if reach:
        yield f"windows that reach over a limit of two periods, and are in no split: {reach:,}"
    left_out = int(((first_W == TRAIN) & (last_W == TRAIN) & is_anomaly_W).sum())
    if left_out:
        yield f"windows of the training period with an anomalous row, which are in no split: {left_out:,}"
