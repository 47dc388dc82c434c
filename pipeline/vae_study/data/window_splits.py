"""The windows of a table of time series, cut and assigned to splits so that no row is in windows of two."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vae_study.config.data import SplitConfig
from vae_study.data.splits import (
    SPLIT_NAMES,
    TRAIN,
    DuplicateGroups,
    SplitAssignment,
    SplitIndices,
    split_at_random,
)
from vae_study.data.table import Table
from vae_study.data.windows import Flags, Ids, Segments, SequenceInput, series_order
from vae_study.errors import UserError


@dataclass(frozen=True, kw_only=True)
class WindowSplit:
    """The windows of one split.

    Attributes:
        rows_R: The numbers of the rows in the table that its windows cover, in the order of their series and times.
        start_N: The place in rows_R at which each window starts.
        length_N: The rows of each, of whole series; None if all have as many.
        shown_N: The number in the table of each window's last anomalous row, of a normal window's last row.
    """

    rows_R: Ids
    start_N: Ids
    shown_N: Ids
    length_N: Ids | None = None


def assign_windows(
    table: Table, is_anomaly_N: Flags, sequence: SequenceInput, stride: int, split: SplitConfig
) -> tuple[SplitAssignment, dict[str, WindowSplit]]:
    """Cut series into windows and assign each to a split: no row is in windows of two splits.

    By time, a window belongs to the period in which all its rows lie; those that reach over a limit of two periods are
    in no split. By group, all windows of a series are in one split. Windows of train have no anomalous row. Of whole
    series, each segment is a window as long as it is, and all those of a series are in one split.

    Raise UserError if the times are wrong, if every segment is shorter than a window, or if a split has no normal one.
    """
    segments = Segments.of(table, sequence)
    segments.require_windows(table, sequence)
    if sequence.is_whole:
        is_used_S = segments.length_S >= sequence.least
        start_W, length_W = segments.first_S[is_used_S], segments.length_S[is_used_S]
    else:
        start_W = segments.starts(sequence.steps, stride)
        length_W = np.broadcast_to(np.int64(sequence.steps), start_W.shape)
    end_W, anomalous_N = start_W + length_W - 1, is_anomaly_N[segments.order_N]
    # The place of the last anomalous row so far, -1 before the first.
    last_N = np.maximum.accumulate(np.where(anomalous_N, np.arange(len(anomalous_N)), -1))
    is_anomaly_W = last_N[end_W] >= start_W
    if split.by == "time":
        period_N = _periods(table, split)[segments.order_N]
        first_W, last_W = period_N[start_W], period_N[end_W]
        split_W, notes = np.where(first_W == last_W, first_W, -1), [*_on_time(first_W, last_W, is_anomaly_W)]
    else:
        group_W = series_order(table)[1][segments.order_N[start_W]]
        groups = DuplicateGroups.of(np.asarray(pd.factorize(group_W)[0], np.int64), is_anomaly_W)
        split_W, notes = split_at_random(groups, [np.arange(len(groups.first_G))], split)[groups.group_N], []
    split_W = np.where((split_W == TRAIN) & is_anomaly_W, -1, split_W)
    notes += _on_lengths(segments, sequence)
    found = {}
    for index, name in enumerate(SPLIT_NAMES):
        chosen_W = split_W == index
        if not (chosen_W & ~is_anomaly_W).any():
            got = f"data.split.{name}: got {getattr(split, name):g}"
            reasons = "".join(f"; {note}" for note in (*segments.notes, *notes))
            what = "series" if sequence.is_whole else "window"
            raise UserError(f"{got}, which leaves it no normal {what}{reasons}")
        found[name] = _window_split(segments.order_N, last_N, start_W[chosen_W], end_W[chosen_W], sequence.is_whole)
    sizes = ", ".join(f"{len(one.start_N):,} in {name}" for name, one in found.items())
    of_splits, what = {name: one.rows_R for name, one in found.items()}, "series" if sequence.is_whole else "windows"
    return SplitAssignment(rows=of_splits, notes=(*segments.notes, f"{what}: {sizes}", *notes)), found


def _periods(table: Table, split: SplitConfig) -> SplitIndices:
    """The split of each row of a table by its time alone, (N,); equal times stay together."""
    assert table.time_N is not None
    sorted_N = np.sort(table.time_N)
    ends = np.round(np.cumsum([split.train, split.validation]) * len(sorted_N)).astype(np.int64)
    first, second = sorted_N[np.minimum(ends, len(sorted_N) - 1)]
    period_N: SplitIndices = np.add(table.time_N >= first, table.time_N >= second, dtype=np.int8)
    return period_N


def _on_lengths(segments: Segments, sequence: SequenceInput) -> Iterator[str]:
    length_S = segments.length_S
    is_short_S = length_S < sequence.least
    if is_short_S.any():
        rows, few = int(length_S[is_short_S].sum()), "of a single row" if sequence.is_whole else "shorter than a window"
        yield f"segments {few}, in no split: {int(is_short_S.sum()):,} with {rows:,} rows"
    if sequence.is_whole:
        low, high = length_S[~is_short_S].min(initial=sequence.steps), length_S.max()
        yield f"series have {low:,} to {high:,} rows, and are masked behind their end up to {sequence.steps:,}"


def _window_split(order_N: Ids, last_N: Ids, start_W: Ids, end_W: Ids, is_whole: bool) -> WindowSplit:
    # +1 where a window starts, -1 behind its end: positive sums are rows that some window covers.
    change_N = np.zeros(len(order_N) + 1, np.int32)
    np.add.at(change_N, start_W, 1)
    np.add.at(change_N, end_W + 1, -1)
    is_used_N = np.cumsum(change_N[:-1], dtype=np.int32) > 0
    place_N = np.cumsum(is_used_N) - 1
    return WindowSplit(
        rows_R=order_N[is_used_N],
        start_N=place_N[start_W],
        shown_N=order_N[np.where(last_N[end_W] >= start_W, last_N[end_W], end_W)],
        length_N=end_W - start_W + 1 if is_whole else None,
    )


def _on_time(first_W: SplitIndices, last_W: SplitIndices, is_anomaly_W: Flags) -> Iterator[str]:
    reach = int((first_W != last_W).sum())
    if reach:
        yield f"windows that reach over a limit of two periods, and are in no split: {reach:,}"
    left_out = int(((first_W == TRAIN) & (last_W == TRAIN) & is_anomaly_W).sum())
    if left_out:
        yield f"windows of the training period with an anomalous row, which are in no split: {left_out:,}"
