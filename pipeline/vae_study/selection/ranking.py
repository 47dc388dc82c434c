"""Rank trials: by the Pareto frontier and its hypervolume (moocore), and by the selection rules in `metrics.RULES`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.anomaly.paired import auroc_error
from vae_study.metrics import RULES, SCORES, Rule, sign_of

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
        reference_M: The reference point, in the objectives' units.

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


@dataclass(frozen=True)
class Selection:
    """A trial, the score to use it with, and the value of the rule's metric."""

    trial: int
    score: str
    value: float


def ranked(
    trials: pd.DataFrame, by: str, score: str | None = None, classes: tuple[int, int] | None = None
) -> list[Selection]:
    """The eligible trials with a finite value, each with its best score, the best trial first.

    Of equal values the better ELBO counts, then the simpler score (the earlier one in SCORES), then the trial number.
    If the best trial is collapsed, and a trial that is not is within one standard error of it, the best such trial
    comes first (the one-standard-error rule of Breiman et al. 1984). The others keep their order, so that a trial which
    is not among the first K now is never among them after more trials.

    Args:
        trials: One row per trial: `trial`, `state`, the metrics, and `feasible` if the study has constraints.
        by: A key of RULES.
        score: The anomaly score that the study prescribes; by default the rule's own, or any.
        classes: How many anomalies and normal rows validation has, for the standard error; None for no such error.
    """
    if trials.empty:
        return []
    sign = sign_of(RULES[by].metric)
    kept = eligible(trials).set_index("trial")
    elbo = kept["val/elbo"].fillna(-np.inf) if "val/elbo" in kept else pd.Series(0.0, kept.index)
    every = sorted(
        _with_each_score(eligible(trials), RULES[by], score),
        key=lambda one: (sign * one.value, -elbo[one.trial], [*SCORES].index(one.score), one.trial),
    )
    best: dict[int, Selection] = {}
    for one in every:
        best.setdefault(one.trial, one)
    found = [*best.values()]
    if not found or not classes or not RULES[by].needs_labels or "val/collapsed" not in kept:
        return found
    least = found[0].value - standard_error(by, found[0].value, classes)
    is_collapsed = kept["val/collapsed"].eq(1)
    first = next((one for one in found if not is_collapsed[one.trial] and one.value >= least), found[0])
    return [first, *(one for one in found if one is not first)]


def standard_error(by: str, value: float, classes: tuple[int, int]) -> float:
    """The standard error of the validation value of a rule with labels, from the value and the class sizes only.

    Of AUROC that of Hanley and McNeil 1982, of average precision that of Boyd et al. 2013. The value is first moved
    towards 1/2 by one anomaly, so that a perfect one has an error too.

    Args:
        by: "val/auroc" or "val/auprc".
        value: The best value.
        classes: How many anomalies and normal rows there are.
    """
    anomalies, normals = classes
    moved = (anomalies * value + 0.5) / (anomalies + 1)
    if by == "val/auroc":
        return auroc_error(moved, anomalies, normals)
    return float(np.sqrt(moved * (1 - moved) / anomalies))


def eligible(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials that keep the study's constraints; if none does, all finished ones."""
    finished = trials[trials["state"] == "finished"]
    kept = feasible(finished)
    return finished if kept.empty else kept


def _with_each_score(finished: pd.DataFrame, rule: Rule, score: str | None) -> Iterator[Selection]:
    wanted = score or rule.score
    scores: Iterable[str] = SCORES if wanted is None else (wanted,)
    for name in scores:
        metric = f"{rule.metric}{name}" if rule.metric.endswith("/") else rule.metric
        if metric in finished:
            values = finished[metric].to_numpy(np.float64, na_value=np.nan)
            rows = zip(finished["trial"], values, strict=True)
            yield from (Selection(int(trial), name, float(value)) for trial, value in rows if np.isfinite(value))


def choose(
    trials: pd.DataFrame, by: str, score: str | None = None, classes: tuple[int, int] | None = None
) -> Selection | None:
    """The first of `ranked`; None if there is none."""
    return next(iter(ranked(trials, by, score, classes)), None)
