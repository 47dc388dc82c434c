"""Anomaly scores and how well they tell normal from anomalous. Arrays in, numbers out; higher is more anomalous."""

from pipeline.anomaly.areas import METRICS, auroc, average_precision, interval
from pipeline.anomaly.operating import (
    is_drift,
    operating_points,
    precision_recall_points,
    roc_points,
    threshold_table,
    why_undefined,
)
from pipeline.anomaly.pseudo import pseudo_anomalies
from pipeline.anomaly.scores import BASELINE, SCORES, SIMPLE_SCORES, Neighbours, Parts, Scorer, reference_rows

__all__ = [
    "BASELINE",
    "METRICS",
    "SCORES",
    "SIMPLE_SCORES",
    "Neighbours",
    "Parts",
    "Scorer",
    "auroc",
    "average_precision",
    "interval",
    "is_drift",
    "operating_points",
    "precision_recall_points",
    "pseudo_anomalies",
    "reference_rows",
    "roc_points",
    "threshold_table",
    "why_undefined",
]
