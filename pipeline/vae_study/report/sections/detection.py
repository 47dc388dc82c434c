"""How well the chosen model tells anomalies from normal rows: curves, and single numbers of them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator

from vae_study.anomaly import detection
from vae_study.anomaly.maps import MOST_FALSE
from vae_study.metrics import metric_of
from vae_study.report.figure import Figure, Grid
from vae_study.report.formatting import captions, interval, number, percent, score_name
from vae_study.report.frames import Interval, Missing
from vae_study.report.style import GREY, NORMAL, figure
from vae_study.report.tables import (
    NO_CHAMPION,
    StudyTables,
    champion_auroc,
    meaning,
    measured,
    operating_points,
    split_scores,
    why_undefined,
)
from vae_study.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class Curves:
    """How well the chosen model detects on the test split: curves and single numbers of them.

    Attributes:
        score: The chosen model's, such as "elbo"; for a code without rate, that is the reconstruction.
        roc: Columns `false_positive_rate`, `true_positive_rate`.
        precision_recall: Columns `recall`, `precision`.
        auroc, average_precision: With 95 % bootstrap intervals.
        prevalence: Share of anomalies, which is the average precision of a score that knows nothing.
        anomalies: How many there are.
        points: As `tables.operating_points` has them.
    """

    score: str
    roc: pd.DataFrame
    precision_recall: pd.DataFrame
    auroc: Interval
    average_precision: Interval
    prevalence: float
    anomalies: int
    points: Mapping[str, float]


def curves(record: StudyRecord) -> Curves | Missing:
    """ROC, precision-recall and their numbers for the chosen model; both classes have to be in the test split."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    if why := why_undefined(record):
        return Missing(f"The detection performance is not known on the test split: {why}.")
    test = split_scores(record, champion, "test")
    is_anomaly, score = test["anomaly"].to_numpy(), test["score"].to_numpy()
    false_positive_rate, true_positive_rate = detection.roc_points(is_anomaly, score)
    recall, precision = detection.precision_recall_points(is_anomaly, score)
    return Curves(
        score=meaning(record, champion),
        roc=pd.DataFrame({"false_positive_rate": false_positive_rate, "true_positive_rate": true_positive_rate}),
        precision_recall=pd.DataFrame({"recall": recall, "precision": precision}),
        auroc=champion_auroc(record),
        average_precision=measured("average_precision", test),
        prevalence=float(is_anomaly.mean()),
        anomalies=int(is_anomaly.sum()),
        points=operating_points(record, test),
    )


def draw_curves(table: Curves) -> Picture:
    """ROC and precision-recall side by side, each with what a score that knows nothing would give."""
    drawn = figure(3.5)
    left, right = drawn.subplots(1, 2)
    _unit_square(left, "false-positive rate", "true-positive rate", f"AUROC {interval(table.auroc, 2)}")
    left.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    left.text(0.72, 0.69, "chance", fontsize=8, color=GREY, rotation=45, rotation_mode="anchor", va="top", ha="center")
    left.plot(table.roc["false_positive_rate"], table.roc["true_positive_rate"], color=NORMAL)
    _unit_square(right, "recall", "precision", f"AP {interval(table.average_precision, 2)}")
    right.axhline(table.prevalence, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    right.text(0.02, table.prevalence + 0.015, f"prevalence {number(table.prevalence, 2)}", fontsize=8, color=GREY)
    right.plot(table.precision_recall["recall"], table.precision_recall["precision"], color=NORMAL)
    return drawn


def _unit_square(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y, title=title)
    axes.set_box_aspect(1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))


def measure_grid(tables: StudyTables) -> Grid:
    """How well the chosen model detects, in the numbers by which detectors are usually compared."""
    found = tables.of(curves)
    if isinstance(found, Missing):
        return Grid()
    point = found.points
    rows = (
        ("AUROC", interval(found.auroc), "chance that an anomaly scores higher than a normal row; guessing gives 0.5"),
        ("average precision", interval(found.average_precision),
         f"mean precision over the recall; guessing gives the prevalence, {number(found.prevalence, 3)}"),
        ("FPR at 95 % TPR", percent(point["fpr_at_95_tpr"]), "normal rows flagged where 95 % of anomalies are found"),
        ("TPR at 1 % FPR", percent(point["tpr_at_1_fpr"]), "anomalies found where 1 % of normal rows are flagged"),
        ("precision at n", percent(point["precision_at_n"]),
         f"anomalies among the {found.anomalies:,} highest scores, as many as there are anomalies"),
        ("precision of the alarms", percent(point["alarm_precision"]),
         f"real ones among the {point['alarms']:,.0f} highest scores, the alarm budget of the study"),
        *([("at the stated prevalence", percent(point["stated_precision"]),
            "real ones among such alarms where anomalies have the prevalence that the study states")]
          if math.isfinite(point["stated_precision"]) else []),
        ("best F1", number(point["best_f1"], 3), "at the best threshold for these test labels, so optimistic"),
        *_of_pixels(tables),
    )  # fmt: skip
    # Where a column is narrow, an interval stays on one line.
    unbroken = tuple((name, value.replace(" ", "\N{NO-BREAK SPACE}"), what) for name, value, what in rows)
    return Grid(
        label="Measured on the test split, with 95 % intervals in brackets",
        head=("measure", f"by {score_name(found.score)}", "what it is"),
        rows=unbroken,
        is_numeric=False,
    )


def _of_pixels(tables: StudyTables) -> Iterator[tuple[str, str, str]]:
    """How well the anomaly maps of the chosen model find anomalous pixels, where images have masks."""
    champion, trials = tables.record.champion, tables.record.trials
    what = {
        "test/pixel_auroc": "chance that an anomalous pixel has a higher value in the anomaly map than a normal one",
        "test/pixel_pro": f"share of each anomalous region found, averaged over up to {MOST_FALSE:.0%} false alarms",
    }
    for name, words in what.items():
        if champion is not None and name in trials:
            value = trials.loc[trials["trial"].eq(champion.trial), name].iloc[0]
            yield metric_of(name).label, number(value, 3), words


CURVES = Figure(name="curves", numbers=lambda tables: tables.of(curves), draw=draw_curves, words=captions("curves"))
