"""What is said under the figures of detection, and in their place to those who do not see them. No markup."""

import numpy as np

from pipeline.report.names import detector_name, score_label, score_name
from pipeline.report.tables import Curves, Scores, SideBySide, Top
from pipeline.report.tables.explained import Pictures
from pipeline.report.words import Words, count, interval, listing, number


def side_by_side(table: SideBySide) -> Words:
    """Says what the test split may be used for."""
    caption = (
        "Test AUROC with its 95 % interval. No rule and no ensemble saw the test rows, so each is a fair estimate; "
        "to take the highest of them now would be to choose on test. The ensembles average standardized scores: those "
        "without labels three scores of each trial and the raw nearest neighbours, the one with labels the best score "
        "of each trial."
    )
    told = (f"{detector_name(choice.name)} {interval(choice.test_auroc)}" for choice in table.choices)
    return Words(caption, f"Dot plot of test AUROC: {listing(told)}.")


def scores(table: Scores) -> Words:
    """Says what the thresholds are made of."""
    parts = [
        f"Score: {score_label(table.score)}; higher is more anomalous. The outermost bars hold all that lies beyond."
    ]
    if len(table.thresholds):
        parts.append("Dashed: percentiles of the scores of normal validation examples.")
    if not len(table.anomaly_N):
        parts.append("No anomaly is labelled in the test split.")
    if table.without_score:
        parts.append(f"{count(table.without_score, 'test example')} without a finite score left out.")
    means = [
        f"{len(values):,} {name} with median {number(float(np.median(values)))}"
        for values, name in ((table.normal_N, "normal"), (table.anomaly_N, "anomalous"))
        if len(values)
    ]
    return Words(" ".join(parts), f"Histogram of anomaly scores of test examples: {listing(means)}.")


def curves(table: Curves) -> Words:
    """Puts the prevalence beside the average precision."""
    caption = (
        f"Score: {score_name(table.score)}. On the test split, with 95 % bootstrap intervals in brackets. AP is the "
        f"average precision; a score that knows nothing would reach the prevalence, {number(table.prevalence, 3)} "
        "(dashed)."
    )
    alt = (
        f"ROC curve with AUROC {interval(table.auroc)} and precision-recall curve with average precision "
        f"{interval(table.average_precision)}."
    )
    return Words(caption, alt)


def top(table: Top) -> Words:
    """Says what the third row of pictures is."""
    caption = (
        "The rows of the table above, from left to right: input, reconstruction, and what each pixel cost above its "
        f"usual cost in training rows: white nothing, darkest {number(most_nats(table.pictures))} nats. Under each "
        "its row, its label and its score."
    )
    if table.rows["anomaly"].any():
        caption += " Labelled anomalies are in red."
    return Words(caption, f"Inputs, reconstructions and contributions of {count(len(table.rows), 'test row')}.")


def most_nats(pictures: Pictures | None) -> float:
    """The highest cost that a pixel of theirs has above usual."""
    known = np.zeros(1) if pictures is None else pictures.nats[np.isfinite(pictures.nats)]
    return float(known.max(initial=0.0))
