"""What is said under each figure, and in its place to those who do not see it. Words about tables, no markup."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.tables import (
    AurocSlice,
    Curves,
    HypervolumeHistory,
    Plane,
    Reconstructions,
    Samples,
    Scores,
    TrainingCurves,
)
from pipeline.report.words import (
    count,
    interval,
    listing,
    metric_name,
    number,
    parameter_name,
    score_label,
    significant,
    trial_list,
)


@dataclass(frozen=True)
class Words:
    """A figure's caption and its alternative text."""

    caption: str = ""
    alt: str = ""


def plane(table: Plane) -> Words:
    """Names what is drawn how, and counts what is not on the plane."""
    points = table.points
    drawn = points["state"].value_counts(sort=False)
    parts = ["Left reconstructs better, down codes cheaper; along a grey line the ELBO is the same."]
    if drawn.get("finished", 0):
        parts.append("Each dot is a finished trial; the larger ones form the frontier.")
        parts.append("Darker is a higher validation AUROC." if points["auroc"].notna().any() else "No AUROC is known.")
    if drawn.get("stopped", 0):
        parts.append(f"Crosses: {count(int(drawn['stopped']), 'trial')} stopped early, at the last value before that.")
    if drawn.get("running", 0):
        parts.append(f"Plus signs: {count(int(drawn['running']), 'trial')} still running.")
    if table.off_plane:
        parts.append(f"Not on the plane: {listing(f'{n:,} {state}' for state, n in table.off_plane.items())}.")
    inside = points["reconstruction"].between(*table.x) & points["kl"].between(*table.y)
    if not inside.all():
        parts.append(f"Outside the view: {count(int((~inside).sum()), 'trial')} far from the others.")
    members = points[points["frontier"]]
    alt = f"Scatter plot of {count(len(points), 'trial')}: validation KL against validation reconstruction, in nats."
    if len(members):
        low, high = (members[["reconstruction", "kl"]].agg(how).map(number) for how in ("min", "max"))
        alt += (
            f" The frontier of {count(len(members), 'trial')} spans {low['reconstruction']} to {high['reconstruction']}"
            f" nats of reconstruction and {low['kl']} to {high['kl']} nats of KL."
        )
    return Words(" ".join(parts), alt)


def hypervolume(table: HypervolumeHistory) -> Words:
    """Names the reference point, without which the number says nothing."""
    reference = listing(f"{metric_name(metric)} {number(value)}" for metric, value in table.reference.items())
    last = table.hypervolume_N[-1]
    reached = int(table.trial_N[int(np.argmax(table.hypervolume_N >= 0.99 * last))])
    caption = (
        f"The area that the frontier dominates, after each finished trial; larger is better, and a flat end says that "
        f"more trials would change little. 99 % of the final {number(last)} was reached with trial {reached}. "
        f"Fixed reference point: {reference}."
    )
    steps = f"from {number(table.hypervolume_N[0])} to {number(last)}"
    return Words(caption, f"Step curve of the hypervolume over {count(len(table.trial_N), 'finished trial')}, {steps}.")


def auroc(tables: Sequence[AurocSlice]) -> Words:
    """Says where the best lies, for each parameter."""
    names = listing(parameter_name(table.parameter) for table in tables)
    tops = [table.points.iloc[int(table.points["auroc"].argmax())] for table in tables]
    where = [f"{parameter_name(t.parameter)} {significant(top['value'])}" for t, top in zip(tables, tops, strict=True)]
    highest = f"The highest, {number(tops[0]['auroc'], 3)}, is at {listing(where)}."
    caption = "Finished trials. The line joins medians of neighbouring trials, the ring marks the chosen one."
    alt = f"Scatter plots of validation AUROC against {names}. {highest}"
    return Words(caption, alt)


def training(table: TrainingCurves) -> Words:
    """Says which trials are drawn."""
    shown = len(table.trials)
    which = "All" if shown == table.frontier_size else f"{shown} of the {table.frontier_size}"
    caption = (
        f"{which} trials of the frontier, from its best reconstruction (dark) to its lowest KL (light). The weight "
        "at the bottom multiplies the KL in the loss: trials are comparable once it stays at 1."
    )
    return Words(caption, f"Curves by epoch of reconstruction, KL and KL weight of {trial_list(table.trials)}.")


def scores(table: Scores) -> Words:
    """Says what the thresholds are made of."""
    parts = [
        f"Score: {score_label(table.score)}; higher is more anomalous. The last bar holds all that lies beyond it."
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
        "On the test split, with 95 % bootstrap intervals in brackets. AP is the average precision; a score that "
        f"knows nothing would reach the prevalence, {number(table.prevalence, 3)} (dashed)."
    )
    alt = (
        f"ROC curve with AUROC {interval(table.auroc)} and precision-recall curve with average precision "
        f"{interval(table.average_precision)}."
    )
    return Words(caption, alt)


def reconstructions(table: Reconstructions) -> Words:
    """Says what to compare."""
    anomalies = int(table.is_anomaly_N.sum())
    normal = count(len(table.is_anomaly_N) - anomalies, "normal test example")
    how = (
        "For each example the features that the model misses by most on average, the worst on top."
        if table.feature_names
        else "Each input above its reconstruction, with the squared error under both."
    )
    caption = f"{how} The model was trained on normal examples only, so anomalies should come out worse."
    return Words(caption, f"Inputs and reconstructions: {normal} and {count(anomalies, 'anomaly', 'anomalies')}.")


def samples(table: Samples) -> Words:
    """Says what they are."""
    return Words(
        "Draws of z from the prior, decoded. All alike would mean that the decoder ignores z.",
        f"{count(len(table.images), 'image')} decoded from draws of the prior.",
    )
