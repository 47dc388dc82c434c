"""Windows of time series: which rows follow one another, where windows start, and windows as views of the rows."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.config.data import SequenceConfig
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
        resample: The length of the steps that rows are brought to, in the unit of `step`; None for rows as they are.
        fills: Whether steps without a row are filled in, up to the limit.
    """

    time: str
    series: str | None
    steps: int
    step: float
    limit: float
    cuts: bool
    is_moment: bool
    resample: float | None = None
    fills: bool = False

    @classmethod
    def of(cls, table: Table, config: SequenceConfig, fills: bool = False) -> Self:
        """Take the usual step from a table's times.

        Raise UserError if the table has no times, or if max_gap is a duration where times are numbers.

        Args:
            table: Its rows as they came.
            config: Of the study file.
            fills: Whether steps without a row may be filled in.
        """
        if table.time_N is None:
            raise UserError(f"data.sequence: {table.where} has no columns; expected a table with data.sequence.time")
        resample, gap = (_length(table, config, name) for name in ("resample", "max_gap"))
        step = _usual_step(table) if resample is None else resample
        fills = fills and resample is not None
        if gap is not None and resample is not None and gap < resample:
            got = f"data.sequence.max_gap: got {config.max_gap!r}"
            raise UserError(f"{got}, expected no less than data.sequence.resample ({config.resample!r})")
        # Without a limit of its own, a gap as long as a window is no longer filled.
        limit = gap if gap is not None else step * (config.window if fills else LARGEST_STEPS)
        return cls(
            time=config.time, series=config.series, steps=config.window, step=step, limit=limit,
            cuts=gap is not None or fills, is_moment=table.is_moment, resample=resample, fills=fills,
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
            row = segments.shown_N[segments.first_S[first]] + 1
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
        shown_N: The rows' numbers in the source.
        first_S, length_S: Where each segment starts in that order, and its number of rows.
        notes: What was assumed.
    """

    order_N: Ids
    shown_N: Ids
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
        shown_N = order_N if table.row_N is None else table.row_N[order_N]
        where = f"{table.where}: column {sequence.time!r}"
        require_ascending(table, sequence, order_N, is_new_N)
        is_gap_N = (later_N > sequence.limit) & ~is_new_N
        notes = []
        if is_gap_N.any():
            step, largest = sequence.duration(sequence.step), sequence.duration(float(later_N[is_gap_N].max()))
            said = f"{int(is_gap_N.sum()):,} of {len(time_N):,} rows come more than {sequence.duration(sequence.limit)}"
            first = f"the first in row {shown_N[is_gap_N][0] + 1:,}, the longest gap is {largest}"
            if not sequence.cuts:
                remedy = "data.sequence.max_gap cuts a series at longer gaps"
                remedy += "; data.missing: mask fills empty steps in" if sequence.resample else ""
                raise UserError(f"{where}: {said} after the one before, {first}; expected steps of {step}; {remedy}")
            notes.append(f"{said} after the one before, and start a new segment: {first}")
        first_S = np.flatnonzero(is_new_N | is_gap_N)
        length_S = np.diff(np.append(first_S, len(time_N)))
        series = int(is_new_N.sum())
        said = f"{series:,} series" if sequence.series else "one series"
        usual = f"{said} with {len(time_N):,} rows {sequence.duration(sequence.step)} apart"
        return cls(
            order_N=order_N,
            shown_N=shown_N,
            first_S=first_S,
            length_S=length_S,
            notes=(f"{usual}, windows of {sequence.steps} rows", *notes),
        )

    def require_windows(self, table: Table, steps: int) -> None:
        """Raise UserError if all segments are shorter than a window."""
        longest = int(self.length_S.argmax())
        if self.length_S[longest] < steps:
            row = self.shown_N[self.first_S[longest]] + 1
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


def _length(table: Table, config: SequenceConfig, name: str) -> float | None:
    """A length of time in a study file, in nanoseconds where times are moments; None if there is none."""
    given = getattr(config, name)
    if given is not None and isinstance(given, str) != table.is_moment:
        expected = "a duration such as 5s" if table.is_moment else "a number, in the unit of the column"
        got = f"data.sequence.{name}: got {given!r}"
        raise UserError(f"{got}, expected {expected}, as column {config.time!r} has them")
    return None if given is None else float(pd.Timedelta(given).value if isinstance(given, str) else given)


def _usual_step(table: Table) -> float:
    """The median of the steps from row to row within a series."""
    assert table.time_N is not None
    order_N, group_N = series_order(table)
    differences_N = np.diff(table.time_N[order_N])[np.diff(group_N[order_N]) == 0]
    ascending_N = differences_N[differences_N > 0]
    return float(np.median(ascending_N)) if len(ascending_N) else 1.0


def require_ascending(table: Table, sequence: SequenceInput, order_N: Ids, is_new_N: Flags) -> None:
    """Raise UserError if times descend within a series, or without resampling occur twice.

    Args:
        table: With times.
        sequence: Whose columns are named.
        order_N: The rows series by series.
        is_new_N: Where in that order a series begins.
    """
    assert table.time_N is not None
    time_N = table.time_N[order_N]
    later_N = np.append(np.zeros(1, time_N.dtype), np.diff(time_N))
    each = " of a series" if sequence.series else ""
    wrong = [(later_N < 0, "times earlier than the row before", f"the rows{each} in the order of their times")]
    if sequence.resample is None:
        once = f"each time once{each}; data.sequence.series names series"
        wrong.append((later_N == 0, "times equal to the row before", once))
    for wrong_N, what, expected in wrong:
        wrong_N &= ~is_new_N
        if wrong_N.any():
            said = f"{int(wrong_N.sum()):,} of {len(time_N):,} {what}, the first in row {order_N[wrong_N][0] + 1:,}"
            raise UserError(f"{table.where}: column {sequence.time!r}: {said}; expected {expected}")


def series_order(table: Table) -> tuple[Ids, Ids]:
    """The rows series by series, as they come within each, and the number of each row's series, both (N,)."""
    count = len(table.x_ND)
    if table.series_N is None:
        # Of millions of rows, each array is a quarter of 8 sensors' features.
        return np.arange(count), np.broadcast_to(np.int64(0), (count,))
    group_N = np.asarray(pd.factorize(table.series_N)[0], np.int64)
    return np.argsort(group_N, kind="stable"), group_N
