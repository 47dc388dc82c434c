"""Windows of time series: which rows follow one another, where windows start, and windows as views of the rows."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.config.data import WHOLE, SequenceConfig
from vae_study.data.table import Table
from vae_study.errors import UserError

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
# Without data.sequence.max_gap, times may be this many usual steps apart: a clock jitters, a lost row leaves two.
LARGEST_STEPS = 1.5
# With window `whole`, a series has at least so many rows; and a gap may be as long as 64 bits of nanoseconds hold.
SHORTEST, LONGEST = 2, 2**62


class Windows:
    """N windows of T steps of F features, which overlap in memory: a view of the rows and where each window starts.

    It is indexed as an array (N, T * F) is, by a slice, indices or a mask, and gives copies of these windows only.

    Attributes:
        rows_RF: The rows in time, series behind series: an array of numpy or a tensor.
        start_N: The row with which each window starts, of the same kind.
        steps: T.
        length_N: The rows of each window, of the same kind, at most T: copies are NaN behind them; None if all have T.
        step_N: Where each row of a table has the whole series that it is in, the row's place there; else None.
    """

    def __init__(self, rows_RF: Any, start_N: Any, steps: int, length_N: Any = None, step_N: Any = None):
        """Make the view; nothing is copied."""
        self.rows_RF, self.start_N, self.steps = rows_RF, start_N, steps
        self.length_N, self.step_N = length_N, step_N
        rows, features = rows_RF.shape
        self._width = steps * features
        if length_N is not None:
            return
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
        return len(self.start_N), self._width

    @property
    def dtype(self) -> Any:
        """That of the rows."""
        return self.rows_RF.dtype

    @property
    def has_ends(self) -> bool:
        """Whether a window may be shorter than others, so that there are steps behind its end."""
        return self.length_N is not None

    @property
    def device(self) -> Any:
        """That of the rows, if they are a tensor."""
        return self.rows_RF.device

    def __getitem__(self, key: Any) -> Any:
        """Copies of some windows, (n, T * F)."""
        if self.length_N is None:
            return self._every[self.start_N[key]]
        start_n1, length_n1 = self.start_N[key][..., None], self.length_N[key][..., None]
        # Of numpy and of torch alike.
        step_T = (self.start_N[:1] * 0 + 1).repeat(self.steps).cumsum(0) - 1
        is_there_nT = step_T < length_n1
        x_nTF = self.rows_RF[(start_n1 + step_T) * is_there_nT]
        x_nTF[~is_there_nT] = np.nan
        return x_nTF.reshape(*x_nTF.shape[:-2], self._width)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Copies of all windows, T times as large as the rows."""
        return np.asarray(self[:], dtype)

    def astype(self, dtype: Any) -> NDArray[Any]:
        """Copies of all windows in another type."""
        return np.asarray(self, dtype)

    def only(self, chosen: Any) -> "Windows":
        """Some of the windows, as views."""
        more = (None if one is None else one[chosen] for one in (self.length_N, self.step_N))
        return Windows(self.rows_RF, self.start_N[chosen], self.steps, *more)

    def each_once(self) -> tuple["Windows", Ids]:
        """The distinct windows, and for each of the N the place of its own among these."""
        _, first_U, place_N = np.unique(self.start_N, return_index=True, return_inverse=True)
        return Windows(self.rows_RF, self.start_N[first_U], self.steps, self.length_N[first_U]), place_N


@dataclass(frozen=True, kw_only=True)
class SequenceInput:
    """How rows become windows, or whole series examples; it is saved with a model.

    Attributes:
        time, series: The columns; series is None if the table is one series.
        steps: Rows of a window; of whole series, of the longest one.
        step: The usual time from row to row, in nanoseconds if times are moments, else in the column's own unit.
        limit: A series is cut where two times are further apart.
        cuts: Whether it is; otherwise such a gap is an error.
        is_moment: Whether times are moments.
        resample: The length of the steps that rows are brought to, in the unit of `step`; None for rows as they are.
        fills: Whether steps without a row are filled in, up to the limit.
        is_whole: Whether each series, or where it is cut each segment, is one example.
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
    is_whole: bool = False

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
        is_whole = config.window == WHOLE
        steps = (config.longest or 0) if is_whole else config.window
        if gap is None and fills:
            # A gap as long as a window is no longer filled; a whole series has no such gap.
            gap = LONGEST if is_whole else step * steps
        return cls(
            time=config.time, series=config.series, steps=steps, step=step,
            limit=step * LARGEST_STEPS if gap is None else gap, cuts=gap not in (None, LONGEST),
            is_moment=table.is_moment, resample=resample, fills=fills, is_whole=is_whole,
        )  # fmt: skip

    def fitted(self, table: Table) -> Self:
        """The same for the rows of training, of which whole series without a longest length are as long as they are."""
        return self if self.steps else replace(self, steps=int(Segments.of(table, self).length_S.max()))

    @property
    def least(self) -> int:
        """The rows that a segment has at least."""
        return SHORTEST if self.is_whole else self.steps

    def example(self, frame: pd.DataFrame, rows: int) -> pd.DataFrame:
        """The first so many rows of a frame, at least a window; of whole series all of the first one."""
        if self.is_whole:
            first: pd.DataFrame = frame[frame[self.series] == frame[self.series].iloc[0]]
            return first
        return frame.head(max(rows, self.steps))

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

        Where whole series are examples, it is the row's series. Raise UserError if the times are wrong, or if a segment
        is shorter than a window, or longer than any series that the model takes.

        Args:
            table: Its x_ND are the features.
        """
        assert table.time_N is not None
        if table.is_moment != self.is_moment:
            kinds = ("times", "numbers") if table.is_moment else ("numbers", "times")
            raise UserError(f"{table.where}: column {self.time!r}: got {kinds[0]}, expected {kinds[1]}, as in training")
        segments = Segments.of(table, self)
        segments.require_lengths(table, self)
        order_N, length_S = segments.order_N, segments.length_S
        is_in_order = bool((order_N[1:] > order_N[:-1]).all())
        x_RF = table.x_ND if is_in_order else table.x_ND[order_N]
        if self.is_whole:
            first_N, length_N = (_back(order_N, np.repeat(one_S, length_S)) for one_S in (segments.first_S, length_S))
            place_N = _back(order_N, np.arange(len(order_N)))
            return Windows(x_RF, first_N, self.steps, length_N, place_N - first_N)
        return Windows(x_RF, _back(order_N, segments.window_of_row(self.steps)), self.steps)

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
        examples = f"windows of {sequence.steps} rows"
        if sequence.is_whole:
            examples = f"each {'segment' if len(first_S) > series else 'series'} is one example"
        return cls(
            order_N=order_N,
            shown_N=shown_N,
            first_S=first_S,
            length_S=length_S,
            notes=(f"{usual}, {examples}", *notes),
        )

    def require_lengths(self, table: Table, sequence: SequenceInput, may_be_short: bool = False) -> None:
        """Raise UserError if a segment is shorter than a window, or longer than any series may be."""
        each = "series" if sequence.is_whole and not sequence.cuts else "segments without a gap"
        few = "have a single row" if sequence.is_whole else "are shorter than a window"
        least = f"expected at least {sequence.least:,} rows in each"
        wrong = [] if may_be_short else [(self.length_S < sequence.least, few, least)]
        if sequence.is_whole:
            origin = "data.sequence.longest of the study, by default the length of its longest series"
            most = f"expected at most {sequence.steps:,} rows in each, {origin}"
            wrong.append((self.length_S > sequence.steps, "are longer than the model takes", most))
        for wrong_S, what, expected in wrong:
            if wrong_S.any():
                first = int(np.flatnonzero(wrong_S)[0])
                said = f"{int(wrong_S.sum()):,} of {len(wrong_S):,} {each} {what}"
                row = self.shown_N[self.first_S[first]] + 1
                place = f"the first has {self.length_S[first]:,} (from row {row:,} on)"
                raise UserError(f"{table.where}: {said}, {place}; {expected}")

    def require_windows(self, table: Table, sequence: SequenceInput) -> None:
        """Raise UserError if all segments are shorter than a window; of whole series, if one is too short or long."""
        if sequence.is_whole:
            # What is left of a series that was cut may be short.
            self.require_lengths(table, sequence, may_be_short=sequence.cuts)
            return
        longest, steps = int(self.length_S.argmax()), sequence.steps
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


def _back(order_N: Ids, value_N: Ids) -> Ids:
    """Values in the order of the table's rows."""
    found_N = np.empty_like(value_N)
    found_N[order_N] = value_N
    return found_N


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
