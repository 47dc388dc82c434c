"""Windows of a table that comes part by part: in memory are a window's rows of each series, and those that wait."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vae_study.data.preprocessing import Preprocessing
from vae_study.data.resampling import StepCounts, resample
from vae_study.data.table import Table
from vae_study.data.windows import Flags, Ids, Segments, SequenceInput, Windows, series_order
from vae_study.errors import UserError


def joined(tables: Sequence[Table]) -> Table:
    """The rows of tables of the same columns, one after the other, with their times, series and numbers."""
    first, codes, found = tables[0], [], [dict[str, int]() for _ in tables[0].category_names]
    for table in tables:
        # The categories of each part are those that occur in it.
        places = [
            np.array([known.setdefault(value, len(known)) for value in values] + [-1], np.int32)
            for known, values in zip(found, table.categories, strict=True)
        ]
        codes.append([place_V[table.code_NC[:, index]] for index, place_V in enumerate(places)])
    fields: dict[str, Any] = {
        name: np.concatenate([getattr(table, name) for table in tables])
        for name in ("x_ND", "time_N", "series_N", "row_N")
        if getattr(first, name) is not None
    }
    code_NC = np.concatenate([np.stack(code_CN, axis=1) for code_CN in codes]) if found else first.code_NC
    return replace(first, code_NC=code_NC, categories=tuple(map(tuple, found)), **fields)


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Some rows of a table in the order of their series and times, R steps: rows, or what they are resampled to.

    Attributes:
        x_RF: Their features.
        segments: Where they have gaps.
        place_N: The step of each of the N rows.
        series_R: A number for the series of each step.
    """

    x_RF: Any
    segments: Segments
    place_N: Ids
    series_R: Ids

    @classmethod
    def of(cls, table: Table, preprocessing: Preprocessing, sequence: SequenceInput) -> "_Steps":
        """Raise UserError if the times are wrong."""
        step_N = np.arange(len(table.x_ND))
        x_RF = table.x_ND
        if sequence.resample is not None:
            made = resample(table, sequence)
            table, step_N, x_RF = made.table, made.step_N, preprocessing.transform(made.table)
        segments = Segments.of(table, sequence)
        order_R = segments.order_N
        place_R = np.empty_like(order_R)
        place_R[order_R] = np.arange(len(order_R))
        series_R = series_order(table)[1][order_R]
        return cls(x_RF=x_RF[order_R], segments=segments, place_N=place_R[step_N], series_R=series_R)


class WindowReader:
    """Gives each row the window that ends with it, as soon as the rows of all windows up to it are there.

    The windows are those of all rows at once. A row waits for the first window of its segment, and where rows become
    steps for the next step of its series, and all rows behind it wait with it.

    Attributes:
        given: How many rows have got their window.
        counts: Of the steps that their rows became.
    """

    def __init__(self, preprocessing: Preprocessing):
        """Begin.

        Args:
            preprocessing: Of a model of windows, not of whole series.
        """
        assert preprocessing.sequence is not None
        self._preprocessing, self._sequence = preprocessing, preprocessing.sequence
        self._waiting: list[Table] = []
        self._held: Table | None = None
        self.given, self.counts = 0, StepCounts()

    def add(self, table: Table) -> Windows | None:
        """Take the next rows; the windows of those that need not wait any more, in their order, or None so far.

        Raise UserError if the times are wrong, or if a segment is shorter than a window. What it says is of these rows
        only.

        Args:
            table: With times, series and row numbers. Where rows become steps, as they came, else their features.
        """
        self._waiting.append(table)
        # What is held is looked at again each time.
        enough = 0 if self._held is None else len(self._held.x_ND)
        return self._next(is_end=False) if sum(len(one.x_ND) for one in self._waiting) >= enough else None

    def finish(self) -> Windows | None:
        """The windows of all rows that are left; raise UserError as `add`."""
        return self._next(is_end=True) if self._waiting or self._held is not None else None

    def _next(self, is_end: bool) -> Windows:
        table = joined([*([] if self._held is None else [self._held]), *self._waiting])
        self._waiting.clear()
        assert table.row_N is not None
        steps, sequence = _Steps.of(table, self._preprocessing, self._sequence), self._sequence
        old, first = int(np.searchsorted(table.row_N, self.given)), len(table.row_N)
        is_final_N = self._final_steps(steps, old, is_end)[steps.place_N]
        if not is_final_N[old:].all():
            first = old + int(np.argmin(is_final_N[old:]))
        start_R = steps.segments.window_of_row(sequence.steps)
        windows = Windows(steps.x_RF, start_R[steps.place_N[old:first]], sequence.steps)
        if sequence.resample is not None:
            self.counts += _counted(steps.place_N, old, first)
        self._held = _taken(table, self._is_needed(steps, first))
        self.given += first - old
        return windows

    def _final_steps(self, steps: _Steps, old: int, is_end: bool) -> Flags:
        """Whether later rows change neither a step nor its window, (R,). Of the rows, the `old` first are given."""
        first_S, length_S = steps.segments.first_S, steps.segments.length_S
        series_S = steps.series_R[first_S]
        # The last segment of a series may go on, and so may its last step.
        is_open_S = np.append(series_S[1:] != series_S[:-1], True) & (not is_end)
        may_grow_S = is_open_S & (self._sequence.resample is not None)
        is_short_S = length_S - may_grow_S < self._sequence.steps
        is_new_R = np.zeros(len(steps.series_R), bool)
        is_new_R[steps.place_N[old:]] = True
        # Of a segment whose rows are all given, only the last ones may be held.
        if (is_short_S & ~is_open_S & np.logical_or.reduceat(is_new_R, first_S)).any():
            raise UserError("a segment is shorter than a window")
        is_final_R = np.repeat(~is_short_S, length_S)
        is_final_R[(first_S + length_S - 1)[may_grow_S]] = False
        return is_final_R

    def _is_needed(self, steps: _Steps, first: int) -> Flags:
        """Which rows are in windows of later ones: of each series, so many steps before the first row without one."""
        count, place_N = len(steps.series_R), steps.place_N
        first_G = np.flatnonzero(np.append(True, steps.series_R[1:] != steps.series_R[:-1]))
        group_R = np.repeat(np.arange(len(first_G)), np.diff(np.append(first_G, count)))
        next_G = np.append(first_G[1:], count)
        np.minimum.at(next_G, group_R[place_N[first:]], place_N[first:])
        has_row_R = np.zeros(count, bool)
        has_row_R[place_N] = True
        # Empty steps come back if the row before them stays.
        place_R = np.maximum.accumulate(np.where(has_row_R, np.arange(count), 0))
        needed_G = place_R[np.maximum(first_G, next_G - self._sequence.steps)]
        return np.asarray(place_N >= needed_G[group_R[place_N]])


def _counted(step_N: Ids, first: int, last: int) -> StepCounts:
    """The counts of the steps that begin in some of the rows, and of the empty steps before each."""
    step_M, first_M, size_M = np.unique(step_N, return_index=True, return_counts=True)
    empty_M = np.diff(step_M, prepend=step_M[:1] - 1) - 1
    is_counted_M = (first_M >= first) & (first_M < last)
    return StepCounts.of(size_M[is_counted_M], int(empty_M[is_counted_M].sum()))


def _taken(table: Table, is_taken_N: Flags) -> Table:
    arrays = {name: getattr(table, name) for name in ("x_ND", "time_N", "series_N", "row_N")}
    fields: dict[str, Any] = {name: None if one is None else one[is_taken_N] for name, one in arrays.items()}
    return replace(table, code_NC=table.code_NC[is_taken_N] if table.categories else table.code_NC, **fields)
