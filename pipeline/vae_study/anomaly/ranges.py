"""Metrics of scores of time points, whose anomalies are ranges: VUS-PR, detection delay, false alarms a day."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.anomaly.detection import area, auroc

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ids = NDArray[np.int64]
# Of the published definition: so many thresholds, at even steps of the ranks of the scores.
THRESHOLDS = 250
NANOSECONDS_A_DAY = 86_400 * 10**9
#: The prefixes of the columns of each sensor in a frame of scored series.
VALUE, EXPECTED, COST = "value/", "expected/", "cost/"


def ranges(is_anomaly_N: Flags, series_N: Ids | None = None, within: int = 1) -> NDArray[np.int64]:
    """The first and the last place of each run of anomalous points, (R, 2).

    Args:
        is_anomaly_N: Of N points in time, series behind series.
        series_N: A number for the series of each point, at which every run ends; None of a single series.
        within: Two points at most this far apart are in one run.
    """
    place_A = np.flatnonzero(is_anomaly_N)
    is_new_A = np.diff(place_A, prepend=-within - 1) > within
    if series_N is not None:
        is_new_A[1:] |= np.diff(series_N[place_A]) != 0
    first_R = np.flatnonzero(is_new_A)
    return np.stack([place_A[first_R], place_A[np.append(first_R[1:], len(place_A))[: len(first_R)] - 1]], axis=1)


def vus_pr(is_anomaly_N: Flags, score_N: Floats, largest_buffer: int) -> float:
    """The volume under the surface of precision, recall and buffer length (Paparrizos et al. 2022); NaN without ranges.

    For each buffer length l from 0 to the largest, points up to l // 2 before and behind a range count as anomalous by
    sqrt(1 - distance / l); of several ranges, their sum, at most 1. With such labels and predictions p, at THRESHOLDS
    thresholds, TP = sum(label * p), precision = TP / sum(p), and recall = min(TP / P, 1) times the share of ranges,
    extended and merged where they touch, with any predicted point; P is the number of anomalous points plus half of the
    TP beside them. The area is the sum of precision times the step of recall, and the volume the mean area.

    Args:
        is_anomaly_N: Of N points of one series, in time.
        score_N: Their scores; higher is more anomalous.
        largest_buffer: In points; the authors take the length of a usual range or period.
    """
    range_R2, count = ranges(is_anomaly_N), len(score_N)
    if not len(range_R2):
        return float("nan")
    rank_J = np.linspace(0, count - 1, THRESHOLDS).astype(np.int64)
    order_N = np.argsort(-score_N, kind="stable")
    # Points at or above the threshold of each rank: all with the same score are.
    sorted_N = score_N[order_N]
    predicted_J = np.searchsorted(-sorted_N, -sorted_N[rank_J], side="right")
    inside_N = is_anomaly_N[order_N]
    areas = []
    for buffer in range(largest_buffer + 1):
        label_N = _extended(is_anomaly_N, range_R2, buffer)[order_N]
        beside_J = np.cumsum(np.where(inside_N, 0, label_N))[predicted_J - 1]
        positive_J = np.cumsum(inside_N)[predicted_J - 1] + beside_J
        whole_J = len(is_anomaly_N[is_anomaly_N]) + beside_J / 2
        highest_S = np.array([score_N[first : last + 1].max() for first, last in _merged(range_R2, buffer, count)])
        found_J = (highest_S[:, None] >= sorted_N[rank_J]).mean(axis=0)
        recall_J = np.minimum(positive_J / whole_J, 1) * found_J
        areas.append(float(np.diff(recall_J, prepend=0.0) @ (positive_J / predicted_J)))
    return float(np.mean(areas))


def _extended(is_anomaly_N: Flags, range_R2: NDArray[np.int64], buffer: int) -> Floats:
    label_N = is_anomaly_N.astype(np.float64)
    half, count = buffer // 2, len(label_N)
    for first, last in range_R2:
        behind = np.arange(last + 1, min(last + half + 1, count))
        before = np.arange(max(first - half, 0), first)
        label_N[behind] += np.sqrt(1 - (behind - last) / buffer) if buffer else 0
        label_N[before] += np.sqrt(1 - (first - before) / buffer) if buffer else 0
    return np.minimum(label_N, 1)


def _merged(range_R2: NDArray[np.int64], buffer: int, count: int) -> NDArray[np.int64]:
    """The ranges with half a buffer on both sides, as one where they touch or overlap."""
    low_R, high_R = np.maximum(range_R2[:, 0] - buffer // 2, 0), np.minimum(range_R2[:, 1] + buffer // 2, count - 1)
    is_apart_R = range_R2[1:, 0] - buffer // 2 > range_R2[:-1, 1] + buffer // 2
    return np.stack([low_R[np.append(True, is_apart_R)], high_R[np.append(is_apart_R, True)]], axis=1)


class Alarms(NamedTuple):
    """How flags find the ranges of some series.

    Attributes:
        found: The share of ranges with a flagged point.
        delay: The mean time from the beginning of a range that was found to its first flagged point, in the unit of the
            times; NaN if none was.
        false_a_day: Runs of flagged points without an anomalous one, per day of normal points.
    """

    found: float
    delay: float
    false_a_day: float


def alarms(
    is_anomaly_N: Flags, is_flagged_N: Flags, time_N: Ids, series_N: Ids | None = None, within: int = 1
) -> Alarms:
    """What flags find, range by range.

    Args:
        is_anomaly_N, is_flagged_N: Of N points in time, series behind series.
        time_N: When they are, in nanoseconds.
        series_N: A number for the series of each point; None of a single one.
        within: Flagged points at most this far apart are one alarm.
    """
    delay_R = delays(is_anomaly_N, is_flagged_N, time_N, series_N)
    is_found_R, is_false_A = ~np.isnan(delay_R), ~holds(ranges(is_flagged_N, series_N, within), is_anomaly_N)
    step_N = np.diff(time_N) if series_N is None else np.diff(time_N)[np.diff(series_N) == 0]
    days = float((~is_anomaly_N).sum()) * (float(np.median(step_N)) if len(step_N) else 0.0) / NANOSECONDS_A_DAY
    return Alarms(
        found=float(is_found_R.mean()) if len(delay_R) else float("nan"),
        delay=float(delay_R[is_found_R].mean()) if is_found_R.any() else float("nan"),
        false_a_day=float(is_false_A.sum()) / days if days else float("nan"),
    )


def alarms_of(frame: pd.DataFrame, threshold: float, steps: int) -> Alarms:
    """What the rows of `vae_study.detector.series.series_frame` above a threshold find.

    Alarms less than a window, so many steps, apart are one.
    """
    is_anomaly_N, time_N, segment_N = (frame[name].to_numpy() for name in ("anomaly", "time", "segment"))
    return alarms(is_anomaly_N, frame["score"].to_numpy() > threshold, time_N, segment_N, within=steps)


def delays(is_anomaly_N: Flags, is_flagged_N: Flags, time_N: NDArray[np.number], series_N: Ids | None = None) -> Floats:
    """The time from the beginning of each range to its first flagged point, NaN of one without; see `alarms`."""
    flagged_A, range_R2 = np.flatnonzero(is_flagged_N), ranges(is_anomaly_N, series_N)
    if not len(flagged_A):
        return np.full(len(range_R2), np.nan)
    next_R = flagged_A[np.minimum(np.searchsorted(flagged_A, range_R2[:, 0]), len(flagged_A) - 1)]
    is_inside_R = (next_R >= range_R2[:, 0]) & (next_R <= range_R2[:, 1])
    return np.where(is_inside_R, (time_N[next_R] - time_N[range_R2[:, 0]]).astype(np.float64), np.nan)


def holds(range_R2: NDArray[np.int64], is_set_N: Flags) -> Flags:
    """Whether any point of each range is set, (R,)."""
    before_N = np.append(0, np.cumsum(is_set_N))
    return np.asarray(before_N[range_R2[:, 1] + 1] > before_N[range_R2[:, 0]])


def covered(score_N: Floats, start_N: NDArray[np.int64], steps: int, points: int) -> Floats:
    """The mean score of the windows that cover each of some points; NaN for a point in none.

    Args:
        score_N: Of the windows.
        start_N: The point with which each begins; no two begin with the same.
        steps: Points of a window.
        points: How many there are.
    """
    total_P, count_P = np.zeros(points), np.zeros(points, np.int32)
    for step in range(steps):
        total_P[start_N + step] += score_N
        count_P[start_N + step] += 1
    with np.errstate(invalid="ignore"):
        return np.asarray(total_P / count_P)


def point_metrics(is_anomaly_P: Flags, score_P: Floats, largest_buffer: int) -> dict[str, float]:
    """AUROC, average precision and VUS-PR of points, by their names in METRICS; NaN without anomalies."""
    return {
        "point_auroc": auroc(is_anomaly_P, score_P),
        "point_auprc": area("average_precision", is_anomaly_P, score_P),
        "vus_pr": vus_pr(is_anomaly_P, score_P, largest_buffer),
    }


def of_points(score_N: Floats, steps: int, how: str = "mean") -> Floats:
    """The scores of the N points of one segment, from those of the windows that end with each of them.

    The first `steps` - 1 points have the score of the first whole window, which ends with point `steps` - 1.

    Args:
        score_N: Of the windows.
        steps: Rows of a window.
        how: `last`, the window that ends with the point, which needs no later rows; `mean` or `max` over the windows
            that cover it.
    """
    if how == "last":
        return score_N
    whole_W = score_N[steps - 1 :]
    pad_P = np.full(steps - 1, np.nan)
    every_NT = np.lib.stride_tricks.sliding_window_view(np.concatenate([pad_P, whole_W, pad_P]), steps)
    return np.asarray(np.nanmean(every_NT, axis=1) if how == "mean" else np.nanmax(every_NT, axis=1))
