"""How well the chosen model tells anomalies from normals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline import anomaly
from pipeline.report.tables.frames import Floats, Interval, Missing
from pipeline.report.tables.scored import (
    NO_CHAMPION,
    champion_auroc,
    meaning,
    measured,
    split_scores,
    why_undefined,
)
from pipeline.tracking.record import StudyRecord

# How many interquartile ranges of the normal scores a histogram shows at most on either side of them.
WIDEST_VIEW = 40.0


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The chosen model's anomaly scores on the test split; higher is more anomalous.

    Attributes:
        score: Which score, such as "elbo"; for a code without rate, that is the reconstruction.
        normal_N, anomaly_N: Scores of the normal and of the anomalous test examples.
        thresholds: Columns `percentile`, `threshold`, `precision`, `recall`, `false_alarm_rate`, `drifted`; the
            percentiles are of the scores of normal validation examples. No row where there are none.
        without_score: Test examples whose score is not finite, which all numbers here leave out.
        view: Limits that hold the bulk of the scores and all thresholds.
    """

    score: str
    normal_N: Floats
    anomaly_N: Floats
    thresholds: pd.DataFrame
    without_score: int
    view: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """How well the chosen model detects on the test split: curves and single numbers of them.

    Attributes:
        score: As for Scores.
        roc: Columns `false_positive_rate`, `true_positive_rate`.
        precision_recall: Columns `recall`, `precision`.
        auroc, average_precision: With 95 % bootstrap intervals.
        prevalence: Share of anomalies, which is the average precision of a score that knows nothing.
        anomalies: How many there are.
        points: `fpr_at_95_tpr`, `tpr_at_1_fpr`, `precision_at_n`, `best_f1`, as `anomaly.operating_points` has them.
    """

    score: str
    roc: pd.DataFrame
    precision_recall: pd.DataFrame
    auroc: Interval
    average_precision: Interval
    prevalence: float
    anomalies: int
    points: Mapping[str, float]


def scores(record: StudyRecord) -> Scores | Missing:
    """The chosen model's scores and what a threshold on them would give."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    test, validation = (split_scores(record, champion, split) for split in ("test", "validation"))
    if test.empty:
        return Missing("The chosen model stored no anomaly score of a test example.")
    held_out = validation.loc[~validation["anomaly"], "score"].to_numpy()
    is_anomaly, score = test["anomaly"].to_numpy(), test["score"].to_numpy()
    thresholds = anomaly.threshold_table(held_out, is_anomaly, score) if len(held_out) else pd.DataFrame()
    return Scores(
        score=meaning(record, champion),
        normal_N=score[~is_anomaly],
        anomaly_N=score[is_anomaly],
        thresholds=thresholds,
        without_score=int(champion.scores["split"].eq("test").sum()) - len(test),
        view=_view(score, score[~is_anomaly], thresholds),
    )


def _view(score_N: Floats, normal_N: Floats, thresholds: pd.DataFrame) -> tuple[float, float]:
    """What holds 98 % of the scores, but not those so far away that the normal ones would become a single bar."""
    first, third = np.quantile(normal_N if len(normal_N) else score_N, [0.25, 0.75])
    room = WIDEST_VIEW * (third - first) or np.inf

    def near(values: Floats) -> Floats:
        kept: Floats = values[(values >= first - room) & (values <= third + room)]
        return kept

    low, high = np.quantile(near(score_N), [0.0, 0.98])
    if len(thresholds):
        high = near(thresholds["threshold"].to_numpy(np.float64)).max(initial=high)
    margin = 0.02 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def curves(record: StudyRecord) -> Curves | Missing:
    """ROC, precision-recall and their numbers for the chosen model; both classes have to be in the test split."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    if why := why_undefined(record):
        return Missing(f"How well anomalies are told from normal rows is not known on the test split: {why}.")
    test = split_scores(record, champion, "test")
    is_anomaly, score = test["anomaly"].to_numpy(), test["score"].to_numpy()
    false_positive_rate, true_positive_rate = anomaly.roc_points(is_anomaly, score)
    recall, precision = anomaly.precision_recall_points(is_anomaly, score)
    return Curves(
        score=meaning(record, champion),
        roc=pd.DataFrame({"false_positive_rate": false_positive_rate, "true_positive_rate": true_positive_rate}),
        precision_recall=pd.DataFrame({"recall": recall, "precision": precision}),
        auroc=champion_auroc(record),
        average_precision=measured("average_precision", test),
        prevalence=float(is_anomaly.mean()),
        anomalies=int(is_anomaly.sum()),
        points=anomaly.operating_points(is_anomaly, score),
    )
