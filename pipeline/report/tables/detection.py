"""How well the chosen model tells anomalies from normals."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline import anomaly
from pipeline.report.tables.choice import stored_auroc
from pipeline.report.tables.frames import Floats, Interval, Missing, has_rate, numbers, row_of
from pipeline.tracking.record import ChampionRecord, StudyRecord

NO_CHAMPION = "No model has been chosen yet."
NOT_SCORES = ("split", "row", "label", "anomaly")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The chosen model's anomaly scores on the test split; higher is more anomalous.

    Attributes:
        score: Which score, such as "elbo"; for a code without rate, that is the reconstruction.
        normal_N, anomaly_N: Scores of the normal and of the anomalous test examples.
        thresholds: Columns `percentile`, `threshold`, `precision`, `recall`, `false_alarm_rate`; the percentiles are
            of the scores of normal validation examples. No row where there are none.
        without_score: Test examples whose score is not finite, which all numbers here leave out.
    """

    score: str
    normal_N: Floats
    anomaly_N: Floats
    thresholds: pd.DataFrame
    without_score: int


@dataclass(frozen=True, kw_only=True)
class Curves:
    """ROC and precision-recall of the chosen model on the test split.

    Attributes:
        roc: Columns `false_positive_rate`, `true_positive_rate`.
        precision_recall: Columns `recall`, `precision`.
        auroc, average_precision: With 95 % bootstrap intervals.
        prevalence: Share of anomalies, which is the average precision of a score that knows nothing.
    """

    roc: pd.DataFrame
    precision_recall: pd.DataFrame
    auroc: Interval
    average_precision: Interval
    prevalence: float


def score_name(record: StudyRecord, champion: ChampionRecord) -> str | None:
    """The anomaly score that the spec asks for, else the first that was stored."""
    stored = [name for name in champion.scores.columns if name not in NOT_SCORES]
    asked = record.spec.get("anomaly", {}).get("score")
    return asked if asked in stored else next(iter(stored), None)


def _meaning(record: StudyRecord, champion: ChampionRecord) -> str:
    name = str(score_name(record, champion))
    return "reconstruction" if name == "elbo" and not has_rate(record, champion.trial) else name


def _split(record: StudyRecord, champion: ChampionRecord, split: str) -> pd.DataFrame:
    """Columns `anomaly` and `score` of a split's examples with a finite score."""
    rows = champion.scores[champion.scores["split"].eq(split)]
    name = score_name(record, champion) or ""
    frame = pd.DataFrame({"anomaly": rows["anomaly"].eq(True), "score": numbers(rows, name)})
    known: pd.DataFrame = frame.loc[np.isfinite(frame["score"].to_numpy())]
    return known


def scores(record: StudyRecord) -> Scores | Missing:
    """The chosen model's scores and what a threshold on them would give."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    test, validation = (_split(record, champion, split) for split in ("test", "validation"))
    if test.empty:
        return Missing("The chosen model stored no anomaly score of a test example.")
    normal = validation.loc[~validation["anomaly"], "score"].to_numpy()
    is_anomaly, score = test["anomaly"].to_numpy(), test["score"].to_numpy()
    thresholds = anomaly.threshold_table(normal, is_anomaly, score) if len(normal) else pd.DataFrame()
    return Scores(
        score=_meaning(record, champion),
        normal_N=score[~is_anomaly],
        anomaly_N=score[is_anomaly],
        thresholds=thresholds,
        without_score=int(champion.scores["split"].eq("test").sum()) - len(test),
    )


def curves(record: StudyRecord) -> Curves | Missing:
    """ROC and precision-recall of the chosen model; both classes have to be in the test split."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    test = _split(record, champion, "test")
    is_anomaly, score = test["anomaly"].to_numpy(), test["score"].to_numpy()
    if is_anomaly.all() or not is_anomaly.any():
        return Missing("ROC and precision-recall need scores of both normal and anomalous test examples.")
    false_positive_rate, true_positive_rate = anomaly.roc_points(is_anomaly, score)
    recall, precision = anomaly.precision_recall_points(is_anomaly, score)
    low, high = anomaly.interval("average_precision", is_anomaly, score)
    return Curves(
        roc=pd.DataFrame({"false_positive_rate": false_positive_rate, "true_positive_rate": true_positive_rate}),
        precision_recall=pd.DataFrame({"recall": recall, "precision": precision}),
        auroc=champion_auroc(record),
        average_precision=Interval(value=anomaly.average_precision(is_anomaly, score), low=low, high=high),
        prevalence=float(is_anomaly.mean()),
    )


def champion_auroc(record: StudyRecord) -> Interval:
    """The chosen model's test AUROC: as the trial stored it, so that a page never shows two; else from its scores."""
    champion = record.champion
    if champion is None:
        return Interval(value=np.nan)
    stored = stored_auroc(row_of(record, champion.trial))
    if np.isfinite([stored.value, stored.low, stored.high]).all():
        return stored
    test = _split(record, champion, "test")
    is_anomaly, score = test["anomaly"].to_numpy(), test["score"].to_numpy()
    if is_anomaly.all() or not is_anomaly.any():
        return stored
    low, high = anomaly.interval("auroc", is_anomaly, score)
    return Interval(value=anomaly.auroc(is_anomaly, score), low=low, high=high)
