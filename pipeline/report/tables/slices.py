"""How well anomalies are told from normals over the search, against one parameter."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.tables.coordinates import Coordinate, coordinates, targets
from pipeline.report.tables.frames import Floats, Missing, numbers, search_range, with_state
from pipeline.report.tables.frontier import frontier
from pipeline.report.tables.scored import auroc_metric
from pipeline.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class AurocSlice:
    """Validation AUROC of the finished trials against one parameter.

    Attributes:
        metric: Which AUROC, of the score that the chosen model is used with where trials have it.
        parameter: Its name.
        log: Whether it was searched on a log scale.
        points: A row a trial: `trial`, `value`, `auroc`, `frontier`, `champion`.
        trend: A row a bin of neighbouring trials: the medians `value` and `auroc`.
    """

    metric: str
    parameter: str
    log: bool
    points: pd.DataFrame
    trend: pd.DataFrame


def auroc_slice(record: StudyRecord, parameter: str) -> AurocSlice | Missing:
    """Validation AUROC against a parameter, over the finished trials that have both."""
    finished, metric = with_state(record, "finished"), auroc_metric(record, "val")
    points = pd.DataFrame(
        {
            "trial": finished["trial"],
            "value": numbers(finished, parameter),
            "auroc": numbers(finished, metric),
            "frontier": finished["trial"].isin(frontier(record)["trial"]),
            "champion": finished["trial"] == (record.champion.trial if record.champion else -1),
        }
    )
    known = np.isfinite(points[["value", "auroc"]].to_numpy()).all(axis=1)
    points = points.loc[known].reset_index(drop=True)
    if points.empty:
        return Missing(f"No finished trial has both a validation AUROC and a value of {parameter}.")
    log = bool(search_range(record, parameter).get("log")) and bool((points["value"] > 0).all())
    return AurocSlice(metric=metric, parameter=parameter, log=log, points=points, trend=_trend(points))


def _trend(points: pd.DataFrame, trials_per_bin: int = 6, most_bins: int = 8) -> pd.DataFrame:
    """Medians over bins of equally many trials, for equal values always in one bin."""
    bins = int(np.clip(len(points) // trials_per_bin, 1, most_bins))
    places = (points["value"].rank(method="average") - 0.5) / len(points) * bins
    return points.groupby(places.astype(int))[["value", "auroc"]].median().reset_index(drop=True)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One target of the finished trials against one searched parameter.

    Attributes:
        parameter: Its column.
        target: The metric.
        is_log: Whether the parameter was searched on a log scale.
        choices: Of a categorical parameter, as text, in the order of the spec; None of a number.
        x_N: The parameter's values; the place of the choice of a categorical one.
        y_N: The target.
        trial_N: The trials' numbers; those that lack one of the two are left out.
        frontier_N: Whether each is on the frontier.
    """

    parameter: str
    target: str
    is_log: bool
    choices: tuple[str, ...] | None
    x_N: Floats
    y_N: Floats
    trial_N: NDArray[np.int64]
    frontier_N: NDArray[np.bool_]


def slices(record: StudyRecord) -> tuple[Slice, ...]:
    """Every searched parameter against every target, where any finished trial has both."""
    finished, members = with_state(record, "finished"), frontier(record)["trial"]
    found, metrics = coordinates(record, finished), targets(record)
    on_frontier = finished["trial"].isin(members).to_numpy(bool)
    drawn = (_slice(finished, on_frontier, coordinate, metric) for coordinate in found for metric in metrics)
    return tuple(table for table in drawn if len(table.x_N))


def _slice(finished: pd.DataFrame, on_frontier: NDArray[np.bool_], coordinate: Coordinate, target: str) -> Slice:
    y_N = numbers(finished, target)
    known = np.isfinite(coordinate.value_N) & np.isfinite(y_N)
    return Slice(
        parameter=coordinate.name,
        target=target,
        is_log=coordinate.is_log,
        choices=coordinate.choices,
        x_N=coordinate.value_N[known],
        y_N=y_N[known],
        trial_N=finished["trial"].to_numpy(np.int64)[known],
        frontier_N=on_frontier[known],
    )
