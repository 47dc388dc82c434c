"""Where the trials lie: in the plane of two metrics, or along one where the study has a single objective."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.report.tables.frames import Missing, numbers
from pipeline.report.tables.frontier import PLANE, frontier, objective_signs
from pipeline.report.tables.scored import auroc_metric
from pipeline.search.pareto import feasible
from pipeline.tracking.record import StudyRecord

Limits = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Trials by the last values of two validation metrics.

    Attributes:
        metrics: Which are across and upwards.
        smaller_is_better: For each of the two.
        points: A row a trial that measured both: `trial`, `state`, `feasible`, `x`, `y`, `auroc` (NaN where unknown),
            `frontier`, `champion`.
        auroc_metric: Which AUROC that is.
        off_plane: Trials that are not in `points`, counted by state.
        x, y: Limits that hold the frontier and the bulk of the finished trials, so that a few that went far off do not
            squeeze the rest.
        objectives_are_the_axes: Whether the frontier is a border of this plane.
    """

    metrics: tuple[str, str]
    smaller_is_better: tuple[bool, bool]
    points: pd.DataFrame
    auroc_metric: str
    off_plane: Mapping[str, int]
    x: Limits
    y: Limits
    objectives_are_the_axes: bool

    @property
    def has_elbo(self) -> bool:
        """Whether the two metrics add up to the negative ELBO."""
        return self.metrics == PLANE


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Trials in the order of their numbers, by a single objective.

    Attributes:
        metric: The objective.
        smaller_is_better: Its direction.
        points, auroc_metric, off_plane, y: As for Plane, where `x` is the trial's number.
        best: A row a finished trial that keeps the constraints: its number `x` and the best value so far, `y`.
    """

    metric: str
    smaller_is_better: bool
    points: pd.DataFrame
    auroc_metric: str
    off_plane: Mapping[str, int]
    y: Limits
    best: pd.DataFrame


def plane(record: StudyRecord) -> Plane | Strip | Missing:
    """Every trial that measured what `plane_metrics` names."""
    metrics, signs = plane_metrics(record), objective_signs(record.spec)
    points = _points(record, ("trial", *metrics) if len(metrics) == 1 else metrics)
    measured = points["state"].ne("failed") & np.isfinite(points[["x", "y"]].to_numpy()).all(axis=1)
    off_plane = {str(k): int(n) for k, n in points[~measured]["state"].value_counts(sort=False).items()}
    if not measured.any():
        return Missing(f"No trial has measured {' and '.join(metrics)}.")
    points = points[measured].reset_index(drop=True)
    smaller = [signs.get(metric, 1.0) > 0 for metric in metrics]
    auroc = auroc_metric(record, "val")
    if len(metrics) == 1:
        return _strip(points, metrics[0], smaller[0], auroc, off_plane)
    return Plane(
        metrics=(metrics[0], metrics[1]),
        smaller_is_better=(smaller[0], smaller[1]),
        points=points,
        auroc_metric=auroc,
        off_plane=off_plane,
        x=_limits(points, "x"),
        y=_limits(points, "y"),
        objectives_are_the_axes=set(signs) == set(metrics),
    )


def plane_metrics(record: StudyRecord) -> tuple[str, ...]:
    """The two objectives. Where there are more, or one only, reconstruction and KL if every trial has them."""
    objectives = tuple(objective_signs(record.spec))
    if set(PLANE) <= set(objectives):
        return PLANE
    if len(objectives) == 2:
        return objectives
    tried = record.trials[record.trials["state"].ne("failed") & np.isfinite(numbers(record.trials, objectives[0]))]
    rated = np.isfinite([numbers(tried, metric) for metric in PLANE]).all()
    return PLANE if len(tried) and rated else objectives[:2]


def _points(record: StudyRecord, columns: tuple[str, ...]) -> pd.DataFrame:
    trials = record.trials
    return pd.DataFrame(
        {
            "trial": trials["trial"],
            "state": trials["state"],
            "feasible": trials["trial"].isin(feasible(trials)["trial"]),
            "x": numbers(trials, columns[0]),
            "y": numbers(trials, columns[1]),
            "auroc": numbers(trials, auroc_metric(record, "val")),
            "frontier": trials["trial"].isin(frontier(record)["trial"]),
            "champion": trials["trial"] == (record.champion.trial if record.champion else -1),
        }
    )


def _strip(
    points: pd.DataFrame, metric: str, smaller_is_better: bool, auroc: str, off_plane: Mapping[str, int]
) -> Strip:
    best = points.loc[points["state"].eq("finished") & points["feasible"], ["x", "y"]].reset_index(drop=True)
    best["y"] = best["y"].cummin() if smaller_is_better else best["y"].cummax()
    return Strip(
        metric=metric,
        smaller_is_better=smaller_is_better,
        points=points,
        auroc_metric=auroc,
        off_plane=off_plane,
        y=_limits(points, "y"),
        best=best,
    )


def _limits(points: pd.DataFrame, name: str) -> Limits:
    finished = points[points["state"].eq("finished")]
    values = (finished if len(finished) else points)[name].to_numpy()
    first, third = np.quantile(values, [0.25, 0.75])
    bulk = values[np.abs(values - (first + third) / 2) <= 4.5 * (third - first)]
    kept = np.concatenate([bulk, points.loc[points["frontier"] | points["champion"], name].to_numpy()])
    kept = kept if len(kept) else values
    margin = 0.06 * (kept.max() - kept.min()) or 1.0
    return float(kept.min() - margin), float(kept.max() + margin)
