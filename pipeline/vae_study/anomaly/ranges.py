"""Metrics of scores of time points, whose anomalies are ranges: VUS-PR, detection delay, false alarms a day."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vae_study.anomaly.detection import area, auroc

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Of the published definition: so many thresholds, at even steps of the ranks of the scores.
THRESHOLDS = 250
NANOSECONDS_A_DAY = 86_400 * 10**9


def ranges(is_anomaly_N: Flags) -> NDArray[np.int64]:
    """The first and the last place of each run of anomalous points, (R, 2)."""
    change_N = np.diff(np.concatenate([[False], is_anomaly_N, [False]]).astype(np.int8))
    return np.stack([np.flatnonzero(change_N == 1), np.flatnonzero(change_N == -1) - 1], axis=1)


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
    """How flags find the ranges of a series.

    Attributes:
        found: The share of ranges with a flagged point.
        delay: The mean time from the beginning of a range that was found to its first flagged point, in the unit of the
            times; NaN if none was.
        false_a_day: Runs of flagged points outside of all ranges, per day of normal points.
    """

    found: float
    delay: float
    false_a_day: float


def alarms(is_anomaly_N: Flags, is_flagged_N: Flags, time_N: NDArray[np.int64]) -> Alarms:
    """What the flags of one series find, range by range.

    Args:
        is_anomaly_N, is_flagged_N: Of N points in time.
        time_N: When they are, in nanoseconds.
    """
    delays = []
    for first, last in ranges(is_anomaly_N):
        inside = np.flatnonzero(is_flagged_N[first : last + 1])
        if len(inside):
            delays.append(float(time_N[first + inside[0]] - time_N[first]))
    false_runs = len(ranges(is_flagged_N & ~is_anomaly_N))
    usual = float(np.median(np.diff(time_N))) if len(time_N) > 1 else 0.0
    days = float((~is_anomaly_N).sum()) * usual / NANOSECONDS_A_DAY
    count = len(ranges(is_anomaly_N))
    return Alarms(
        found=len(delays) / count if count else float("nan"),
        delay=float(np.mean(delays)) if delays else float("nan"),
        false_a_day=false_runs / days if days else float("nan"),
    )


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
