"""Non-dominated points and hypervolume, by moocore. Arrays only, so that the report may use it too."""

from collections.abc import Sequence

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def non_dominated(values_NM: Floats) -> NDArray[np.bool_]:
    """Which of N points no other point dominates; every objective is minimized.

    Args:
        values_NM: N points with M objective values each. A point with a value that is not finite
            is never non-dominated. Of equal points, all are kept.

    Returns:
        A mask of shape (N,).
    """
    values_NM = np.asarray(values_NM, dtype=np.float64)
    mask: NDArray[np.bool_] = np.asarray(np.isfinite(values_NM).all(axis=1))
    if mask.any():
        mask[mask] = moocore.is_nondominated(values_NM[mask], keep_weakly=True)
    return mask


def hypervolume(values_NM: Floats, reference_M: Sequence[float]) -> float:
    """Volume between a reference point and the points that dominate it (Zitzler and Thiele 1998).

    Args:
        values_NM: N points, every objective minimized; points with a value that is not finite, or
            that do not dominate the reference, add nothing.
        reference_M: The reference point; its unit is the product of the objectives' units.

    Returns:
        The hypervolume, 0 for no points.
    """
    values_NM = np.asarray(values_NM, dtype=np.float64)
    inside = np.isfinite(values_NM).all(axis=1) & (values_NM < np.asarray(reference_M)).all(axis=1)
    return float(moocore.hypervolume(values_NM[inside], ref=list(reference_M))) if inside.any() else 0.0


def frontier_of(trials: pd.DataFrame, metrics: Sequence[str], signs: Sequence[float]) -> pd.DataFrame:
    """The finished, feasible trials that no other such trial dominates, by their first objective.

    Args:
        trials: A row a trial, with `state`, the metrics, and `feasible` where the study knows constraints.
        metrics: The objectives.
        signs: 1 for each objective that is minimized, -1 for each that is maximized.

    Returns:
        Rows of `trials`; none where a metric is missing altogether.
    """
    if trials.empty or not set(metrics) <= set(trials.columns):
        return trials.iloc[:0]
    finished = feasible(trials[trials["state"] == "finished"])
    values_NM = finished[list(metrics)].to_numpy(np.float64) * np.asarray(signs)
    return finished[non_dominated(values_NM)].sort_values([metrics[0], "trial"])


def feasible(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that keep the study's constraints; all of them where the column `feasible` is missing."""
    return trials[trials["feasible"].ne(False)] if "feasible" in trials.columns else trials
