"""What is said under the figures of the search, and in their place to those who do not see them. No markup."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.report.names import axis_label, digits_of, metric_name, parameter_name
from pipeline.report.tables import AurocSlice, Confirmation, HypervolumeHistory, Plane, Strip, TrainingCurves
from pipeline.report.words import Words, count, listing, number, significant, trial_list


def plane(table: Plane, knee: int | None = None) -> Words:
    """Names what is drawn how, and counts what is not on the plane."""
    points, parts = table.points, [_axes(table), *_marks(table.points, table.auroc_metric, table.off_plane)]
    if knee is not None:
        parts.append(
            f"The diamond is the knee, trial {knee}: of the frontier the farthest from the line between its ends."
        )
    inside = points["x"].between(*table.x) & points["y"].between(*table.y)
    parts.extend(_outside(inside))
    x, y = map(metric_name, table.metrics)
    alt = f"Scatter plot of {count(len(points), 'trial')}: {y} against {x}."
    members = points[points["frontier"]]
    if len(members):
        spans = (_span(members[column], metric) for column, metric in zip("xy", table.metrics, strict=True))
        alt += f" The frontier of {count(len(members), 'trial')} spans {listing(spans)}."
    return Words(" ".join(parts), alt)


def _axes(table: Plane) -> str:
    if table.has_elbo:
        return "Left reconstructs better, down codes cheaper; along a grey line the ELBO is the same."
    across, upwards = table.smaller_is_better
    return f"Better is {'left' if across else 'right'} and {'down' if upwards else 'up'}."


def _span(values: "pd.Series[float]", metric: str) -> str:
    low, high = (number(float(end), digits_of(metric)) for end in (values.min(), values.max()))
    return f"{low} to {high} of {axis_label(metric)}"


def strip(table: Strip) -> Words:
    """The same along one objective."""
    where = "lower" if table.smaller_is_better else "higher"
    parts = [f"The study has one objective, so trials are in the order of their numbers; {where} is better."]
    parts.extend(_marks(table.points, table.auroc_metric, table.off_plane))
    if len(table.best) > 1:
        parts.append("The line is the best so far.")
    parts.extend(_outside(table.points["y"].between(*table.y)))
    alt = f"{count(len(table.points), 'trial')} by {metric_name(table.metric)}"
    if len(table.best):
        alt += f"; the best finished one reached {number(float(table.best['y'].iloc[-1]), digits_of(table.metric))}"
    return Words(" ".join(parts), f"{alt}.")


def _marks(points: pd.DataFrame, auroc: str, off_plane: Mapping[str, int]) -> list[str]:
    drawn, parts = points["state"].value_counts(sort=False), []
    violating = int((points["state"].eq("finished") & ~points["feasible"]).sum())
    if drawn.get("finished", 0) > violating:
        which = " that keeps the constraints" * bool(violating)
        parts.append(f"Each dot is a finished trial{which}; the larger ones form the frontier.")
        known = points["auroc"].notna().any()
        parts.append(f"Their colour is the {metric_name(auroc)}." if known else "No AUROC is known.")
    if violating:
        parts.append(f"Open triangles: {count(violating, 'finished trial')} beyond a constraint.")
    if drawn.get("stopped", 0):
        parts.append(f"Crosses: {count(int(drawn['stopped']), 'trial')} stopped early, at the last value before that.")
    if drawn.get("running", 0):
        parts.append(f"Plus signs: {count(int(drawn['running']), 'trial')} still running.")
    if drawn.get("waiting", 0):
        parts.append(f"Three-pointed stars: {count(int(drawn['waiting']), 'trial')} waiting to be resumed.")
    if off_plane:
        parts.append(f"Not drawn: {listing(f'{n:,} {state}' for state, n in off_plane.items())}.")
    return parts


def _outside(inside: "pd.Series[bool]") -> list[str]:
    away = int((~inside).sum())
    return [f"Outside the view: {count(away, 'trial')} far from the others."] if away else []


def hypervolume(table: HypervolumeHistory) -> Words:
    """Names the reference point, without which the number says nothing."""
    reference = listing(f"{metric_name(metric)} {number(value)}" for metric, value in table.reference.items())
    last = table.hypervolume_N[-1]
    reached = int(table.trial_N[int(np.argmax(table.hypervolume_N >= 0.99 * last))])
    what = (
        "The area that the frontier dominates"
        if len(table.reference) > 1
        else "How far the best trial lies beyond the reference point"
    )
    caption = (
        f"{what}, after each finished trial; larger is better, and a flat end says that "
        f"more trials would change little. 99 % of the final {number(last)} was reached with trial {reached}"
        f"{_epochs_until(table, reached)}. Fixed reference point: {reference}."
    )
    steps = f"from {number(table.hypervolume_N[0])} to {number(last)}"
    return Words(caption, f"Step curve of the hypervolume over {count(len(table.trial_N), 'finished trial')}, {steps}.")


def _epochs_until(table: HypervolumeHistory, trial: int) -> str:
    """Where trials are stopped early, their number does not tell what they cost."""
    if table.epochs_N is None:
        return ""
    trained = int(table.epochs_N[table.trial_N == trial][0])
    return f"; the trials up to that number trained {count(trained, 'epoch')}"


def auroc(tables: Sequence[AurocSlice]) -> Words:
    """Says where the best lies, for each parameter."""
    names = listing(parameter_name(table.parameter) for table in tables)
    tops = [table.points.iloc[int(table.points["auroc"].argmax())] for table in tables]
    where = [f"{parameter_name(t.parameter)} {significant(top['value'])}" for t, top in zip(tables, tops, strict=True)]
    highest = f"The highest, {number(tops[0]['auroc'], 3)}, is at {listing(where)}."
    caption = "Finished trials. The line joins medians of neighbouring trials, the ring marks the chosen one."
    alt = f"Scatter plots of {metric_name(tables[0].metric)} against {names}. {highest}"
    return Words(caption, alt)


def training(table: TrainingCurves) -> Words:
    """Says which trials are drawn."""
    shown = len(table.trials)
    which = "All" if shown == table.frontier_size else f"{shown} of the {table.frontier_size}"
    order = f"by {metric_name(table.order)} from best to worst, as in the legend"
    caption = f"{which} trials of the frontier, {order}." if table.frontier_size > 1 else "The frontier’s only trial."
    if not table.is_frontier:
        caption = f"The best {count(shown, 'finished trial')}, {order}."
    if "train/kl_weight" in table.terms:
        caption += " The weight at the bottom multiplies the KL in the loss: trials are comparable once it stays at 1."
    return Words(
        caption, f"Curves by epoch of {listing(map(metric_name, table.terms))}, of {trial_list(table.trials)}."
    )


def confirmation(table: Confirmation) -> Words:
    """Warns that the original was chosen for being good."""
    ring = "the ring is the study’s own" if table.dots["original"].any() else "the study’s own is not known"
    caption = (
        f"Each dot is one seed, {ring}, the bar is the mean of all. Trials were picked for how well their first seed "
        "did, so a mean that is somewhat worse than the ring is to be expected."
    )
    spread = table.spreads[table.metric]
    digits = digits_of(table.metric)
    pairs = zip(spread["trial"].tolist(), spread["mean"].tolist(), strict=True)
    means = [f"trial {trial} {number(mean, digits)}" for trial, mean in pairs]
    return Words(caption, f"Dot plot of {metric_name(table.metric)} by seed; means: {listing(means)}.")
