"""Anomaly scores and how well they tell normal from anomalous. Arrays in, numbers out; higher is more anomalous."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
BOOTSTRAP_BYTES = 64 * 2**20


def scores_of(*, reconstruction_N: Floats, kl_N: Floats, squared_error_N: Floats) -> dict[str, Floats]:
    """Every anomaly score of N examples from the parts that a trial keeps.

    Args:
        reconstruction_N, kl_N: Nats per example.
        squared_error_N: In squared units of the scaled data, summed over features.

    Returns:
        `elbo` (reconstruction + KL, nats), `reconstruction`, `kl` and `squared_error`.
    """
    return {
        "elbo": reconstruction_N + kl_N,
        "reconstruction": reconstruction_N,
        "kl": kl_N,
        "squared_error": squared_error_N,
    }


def _groups(is_anomaly_N: Mask, score_N: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Examples from the highest score down, and where each run of equal scores begins."""
    order_N = np.argsort(-score_N, kind="stable")
    sorted_N = score_N[order_N]
    return order_N, np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])


def _auroc(positive_WG: Floats, negative_WG: Floats) -> Floats:
    below_WG = negative_WG.sum(axis=1, keepdims=True) - negative_WG.cumsum(axis=1)
    won_W = (positive_WG * (below_WG + 0.5 * negative_WG)).sum(axis=1)
    return np.asarray(won_W / (positive_WG.sum(axis=1) * negative_WG.sum(axis=1)))


def _average_precision(positive_WG: Floats, negative_WG: Floats) -> Floats:
    found_WG = positive_WG.cumsum(axis=1)
    flagged_WG = found_WG + negative_WG.cumsum(axis=1)
    precision_WG = np.divide(found_WG, flagged_WG, out=np.zeros_like(found_WG), where=flagged_WG > 0)
    return np.asarray((positive_WG * precision_WG).sum(axis=1) / found_WG[:, -1])


METRICS: Mapping[str, Callable[[Floats, Floats], Floats]] = {"auroc": _auroc, "average_precision": _average_precision}


def _weighted(metric: str, is_anomaly_N: Mask, score_N: Floats, weight_WN: Floats) -> Floats:
    """A metric under W weightings of the examples at once; ties share their credit."""
    order_N, starts_G = _groups(is_anomaly_N, score_N)
    anomaly_N, weight_WN = is_anomaly_N[order_N], weight_WN[:, order_N]
    positive_WG = np.add.reduceat(weight_WN * anomaly_N, starts_G, axis=1)
    negative_WG = np.add.reduceat(weight_WN * ~anomaly_N, starts_G, axis=1)
    return METRICS[metric](positive_WG, negative_WG)


def _has_both(is_anomaly_N: Mask, score_N: Floats) -> bool:
    return bool(is_anomaly_N.any() and not is_anomaly_N.all() and np.isfinite(score_N).all())


def _value(metric: str, is_anomaly_N: Mask, score_N: Floats) -> float:
    if not _has_both(is_anomaly_N, score_N):
        return float("nan")
    return float(_weighted(metric, is_anomaly_N, score_N, np.ones((1, len(score_N))))[0])


def auroc(is_anomaly_N: Mask, score_N: Floats) -> float:
    """Area under the ROC curve: the chance that an anomaly scores higher than a normal example; ties count half.

    Returns:
        A number from 0 to 1; NaN where only one class occurs or a score is not finite.
    """
    return _value("auroc", is_anomaly_N, score_N)


def average_precision(is_anomaly_N: Mask, score_N: Floats) -> float:
    """Average precision, the area under the step-wise precision-recall curve; chance level is the prevalence.

    Returns:
        A number from 0 to 1; NaN where only one class occurs or a score is not finite.
    """
    return _value("average_precision", is_anomaly_N, score_N)


def interval(
    metric: str, is_anomaly_N: Mask, score_N: Floats, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """A percentile interval of "auroc" or "average_precision" by the stratified bootstrap (Efron and Tibshirani 1993).

    Args:
        metric: A key of METRICS.
        is_anomaly_N, score_N: The examples; each class is resampled on its own, so that its size stays.
        draws: Number of resamplings.
        seed: Seed of the resampling.
        level: The interval's nominal coverage.

    Returns:
        Low and high end; NaN where only one class occurs or a score is not finite.
    """
    if not _has_both(is_anomaly_N, score_N):
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    rows = max(1, BOOTSTRAP_BYTES // (8 * len(score_N)))
    values = [
        _weighted(metric, is_anomaly_N, score_N, _resampled(random, is_anomaly_N, min(rows, draws - start)))
        for start in range(0, draws, rows)
    ]
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled(random: np.random.Generator, is_anomaly_N: Mask, draws: int) -> Floats:
    """How often each example occurs in each of some resamplings, shape (draws, N)."""
    weight_WN = np.zeros((draws, len(is_anomaly_N)))
    for member_N in (is_anomaly_N, ~is_anomaly_N):
        size = int(member_N.sum())
        weight_WN[:, member_N] = random.multinomial(size, np.full(size, 1 / size), size=draws)
    return weight_WN


def roc_points(is_anomaly_N: Mask, score_N: Floats) -> tuple[Floats, Floats]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1); both classes must occur."""
    false_rate, true_rate, _ = roc_curve(is_anomaly_N, score_N, drop_intermediate=False)
    return false_rate, true_rate


def precision_recall_points(is_anomaly_N: Mask, score_N: Floats) -> tuple[Floats, Floats]:
    """Recall and precision at every threshold, from recall 0 to recall 1; both classes must occur."""
    precision, recall, _ = precision_recall_curve(is_anomaly_N, score_N)
    return recall[::-1], precision[::-1]


def threshold_table(
    validation_normal_scores: Floats, is_anomaly_N: Mask, score_N: Floats, percentiles: Sequence[float] = (90, 95, 99)
) -> pd.DataFrame:
    """What flagging by a percentile of held-out normal scores does on other examples.

    Args:
        validation_normal_scores: Scores of normal validation examples; the thresholds are their percentiles.
        is_anomaly_N, score_N: The examples to flag.
        percentiles: Percentiles of the normal scores.

    Returns:
        A row a percentile: percentile, threshold, precision, recall, false_alarm_rate; NaN where nothing is flagged
        (precision) or a class does not occur (recall, false_alarm_rate).
    """
    rows = [
        _flagging(percentile, float(np.percentile(validation_normal_scores, percentile)), is_anomaly_N, score_N)
        for percentile in percentiles
    ]
    return pd.DataFrame(rows)


def _flagging(percentile: float, threshold: float, is_anomaly_N: Mask, score_N: Floats) -> dict[str, float]:
    flagged_N = score_N > threshold

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return {
        "percentile": percentile,
        "threshold": threshold,
        "precision": share(int((flagged_N & is_anomaly_N).sum()), int(flagged_N.sum())),
        "recall": share(int((flagged_N & is_anomaly_N).sum()), int(is_anomaly_N.sum())),
        "false_alarm_rate": share(int((flagged_N & ~is_anomaly_N).sum()), int((~is_anomaly_N).sum())),
    }
