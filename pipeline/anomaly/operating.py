"""What flagging above a threshold does: curves, single points of them, and thresholds without labels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import betabinom
from sklearn.metrics import precision_recall_curve, roc_curve

from pipeline.anomaly.areas import Floats, Mask, average_precision, has_both

PERCENTILES = (90.0, 95.0, 99.0)
# Two-sided chance of calling a drift where there is none.
DRIFT_LEVEL = 0.001
NO_ANOMALIES, NO_NORMALS, NOT_FINITE = (
    "no labelled anomaly among the examples",
    "no normal example",
    "a score is not finite",
)


def why_undefined(is_anomaly_N: Mask, score_N: Floats) -> str | None:
    """Why no metric of detection is defined on some examples; None where it is."""
    if not np.isfinite(score_N).all():
        return NOT_FINITE
    if not is_anomaly_N.any():
        return NO_ANOMALIES
    return NO_NORMALS if is_anomaly_N.all() else None


def roc_points(is_anomaly_N: Mask, score_N: Floats) -> tuple[Floats, Floats]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1); both classes must occur."""
    false_rate, true_rate, _ = roc_curve(is_anomaly_N, score_N, drop_intermediate=False)
    return false_rate, true_rate


def precision_recall_points(is_anomaly_N: Mask, score_N: Floats) -> tuple[Floats, Floats]:
    """Recall and precision at every threshold, from recall 0 to recall 1; both classes must occur."""
    precision, recall, _ = precision_recall_curve(is_anomaly_N, score_N)
    return recall[::-1], precision[::-1]


def operating_points(is_anomaly_N: Mask, score_N: Floats) -> dict[str, float]:
    """Single numbers that users compare detectors by.

    Returns:
        `average_precision`, `prevalence` (its chance level), `fpr_at_95_tpr` (the smallest false positive rate that
        finds 95 % of the anomalies), `tpr_at_1_fpr` (the largest true positive rate at 1 % false alarms at most),
        `precision_at_n` (among as many of the highest scores as there are anomalies; of equal scores there, their
        share) and `best_f1` (the best over all thresholds: tuned on these very labels). NaN where only one class
        occurs or a score is not finite; `prevalence` needs an example only.
    """
    names = ("average_precision", "fpr_at_95_tpr", "tpr_at_1_fpr", "precision_at_n", "best_f1")
    prevalence = float(is_anomaly_N.mean()) if len(is_anomaly_N) else float("nan")
    if not has_both(is_anomaly_N, score_N):
        return {"prevalence": prevalence, **dict.fromkeys(names, float("nan"))}
    false_rate, true_rate = roc_points(is_anomaly_N, score_N)
    recall, precision = precision_recall_points(is_anomaly_N, score_N)
    f1 = np.divide(2 * precision * recall, precision + recall, out=np.zeros_like(recall), where=recall > 0)
    values = (
        average_precision(is_anomaly_N, score_N),
        float(false_rate[true_rate >= 0.95].min()),
        float(true_rate[false_rate <= 0.01].max()),
        _precision_at_n(is_anomaly_N, score_N),
        float(f1.max()),
    )
    return {"prevalence": prevalence, **dict(zip(names, values, strict=True))}


def _precision_at_n(is_anomaly_N: Mask, score_N: Floats) -> float:
    wanted = int(is_anomaly_N.sum())
    threshold = np.partition(score_N, -wanted)[-wanted]
    above_N, tied_N = score_N > threshold, score_N == threshold
    seats = wanted - int(above_N.sum())
    return float((is_anomaly_N[above_N].sum() + seats * is_anomaly_N[tied_N].mean()) / wanted)


def threshold_table(
    validation_normal_scores: Floats, is_anomaly_N: Mask, score_N: Floats, percentiles: Sequence[float] = PERCENTILES
) -> pd.DataFrame:
    """What flagging by a percentile of held-out normal scores does on other examples.

    Args:
        validation_normal_scores: Scores of normal validation examples; the thresholds are their percentiles.
        is_anomaly_N, score_N: The examples to flag.
        percentiles: Percentiles of the normal scores.

    Returns:
        A row a percentile: percentile, threshold, precision, recall, false_alarm_rate; NaN where nothing is flagged
        (precision) or a class does not occur (recall, false_alarm_rate); and `drifted`, whether the false alarms are
        further from their nominal share than chance explains.
    """
    thresholds = np.percentile(validation_normal_scores, percentiles)
    rows = [
        {"percentile": percentile, **_flagging(float(threshold), validation_normal_scores, is_anomaly_N, score_N)}
        for percentile, threshold in zip(percentiles, thresholds, strict=True)
    ]
    return pd.DataFrame(rows)


def _flagging(threshold: float, held_out_M: Floats, is_anomaly_N: Mask, score_N: Floats) -> dict[str, float | bool]:
    flagged_N = score_N > threshold
    false_alarms, normals = int((flagged_N & ~is_anomaly_N).sum()), int((~is_anomaly_N).sum())

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return {
        "threshold": threshold,
        "precision": share(int((flagged_N & is_anomaly_N).sum()), int(flagged_N.sum())),
        "recall": share(int((flagged_N & is_anomaly_N).sum()), int(is_anomaly_N.sum())),
        "false_alarm_rate": share(false_alarms, normals),
        "drifted": is_drift(false_alarms, normals, int((held_out_M > threshold).sum()), len(held_out_M)),
    }


def is_drift(false_alarms: int, normals: int, held_out_above: int, held_out: int) -> bool:
    """Whether normal examples are flagged at another rate than the held-out ones that set the threshold.

    Where all come from one distribution, how many of `normals` are flagged is beta-binomial, given how many of
    `held_out` are (with Jeffreys' prior); a count in either tail of it, by less than 0.1 % together, is drift.

    Args:
        false_alarms: Flagged normal examples.
        normals: Normal examples.
        held_out_above: Held-out normal examples above the threshold; fewer than it was to flag where scores are equal.
        held_out: Held-out normal examples.
    """
    if not normals or not held_out:
        return False
    expected = betabinom(normals, held_out_above + 0.5, held_out - held_out_above + 0.5)
    tail = min(expected.cdf(false_alarms), expected.sf(false_alarms - 1))
    return bool(tail < DRIFT_LEVEL / 2)
