"""Where the trials lie: in the plane of two metrics, or along a single one; and which the interactive figures draw."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.report.frames import Missing, kept_by_sweeps, numbers
from vae_study.report.frontier import PLANE, Knee, knee, marks, objective_signs
from vae_study.report.interactive import SampledTrials, thinned
from vae_study.report.tables import StudyTables, auroc_metric
from vae_study.selection.ranking import feasible
from vae_study.tracking.record import StudyRecord

Limits = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Trials by the last values of two validation metrics, or of a single one over the trials' numbers.

    Attributes:
        metrics: Which are across and upwards; or the one upwards.
        smaller_is_better: For each of them.
        points: One row per trial that measured them: `trial`, `state`, `feasible`, `x`, `y`, `auroc` (NaN where
            unknown), `frontier`, `champion`.
        auroc_metric: Which AUROC that is.
        off_plane: Trials that are not in `points`, counted by state.
        x, y: Limits that hold the frontier and the bulk of the finished trials, so that a few that went far off do not
            squeeze the rest.
        best: Of a single metric, each finished trial that satisfies the constraints, `x`, with the best value so far,
            `y`; else without rows.
        objectives_are_the_axes: Whether the frontier is a border of this plane.
        knee: The frontier's knee, a trial; None where there is none.
        sweeps: Of each sweep of beta, `x` and `y` of the models that it kept, in the order in which it came to them.
    """

    metrics: tuple[str, ...]
    smaller_is_better: tuple[bool, ...]
    points: pd.DataFrame
    auroc_metric: str
    off_plane: Mapping[str, int]
    x: Limits
    y: Limits
    best: pd.DataFrame
    objectives_are_the_axes: bool
    knee: int | None
    sweeps: tuple[pd.DataFrame, ...] = ()

    @property
    def has_elbo(self) -> bool:
        """Whether the two metrics add up to the negative ELBO."""
        return self.metrics == PLANE

    @property
    def is_strip(self) -> bool:
        """Whether there is a single metric."""
        return len(self.metrics) == 1


def plane(record: StudyRecord) -> Plane | Missing:
    """Every trial that measured what `plane_metrics` names."""
    metrics, signs, trials = plane_metrics(record), objective_signs(record.config), record.trials
    auroc, (across, upwards), found = auroc_metric(record, "val"), ("trial", *metrics)[-2:], knee(record)
    points = pd.DataFrame(
        {
            "trial": trials["trial"],
            "state": trials["state"],
            "feasible": trials["trial"].isin(feasible(trials)["trial"]),
            "x": numbers(trials, across),
            "y": numbers(trials, upwards),
            "auroc": numbers(trials, auroc),
            **marks(record, trials),
        }
    )
    measured = points["state"].ne("failed") & np.isfinite(points[["x", "y"]].to_numpy()).all(axis=1)
    off_plane = {str(k): int(n) for k, n in points[~measured]["state"].value_counts(sort=False).items()}
    if not measured.any():
        return Missing(f"No trial has measured {' and '.join(metrics)}.")
    points = points[measured].reset_index(drop=True)
    smaller, is_strip = tuple(signs.get(metric, 1.0) > 0 for metric in metrics), len(metrics) == 1
    best = points.loc[points["state"].eq("finished") & points["feasible"] & is_strip, ["x", "y"]].reset_index(drop=True)
    best["y"] = best["y"].cummin() if smaller[0] else best["y"].cummax()
    return Plane(
        metrics=metrics,
        smaller_is_better=smaller,
        points=points,
        auroc_metric=auroc,
        off_plane=off_plane,
        x=(float(points["x"].min()) - 1, float(points["x"].max()) + 1) if is_strip else _limits(points, "x"),
        y=_limits(points, "y"),
        best=best,
        objectives_are_the_axes=not is_strip and set(signs) == set(metrics),
        knee=found.trial if isinstance(found, Knee) else None,
        sweeps=() if is_strip else tuple(_paths(record, points)),
    )


def _paths(record: StudyRecord, points: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The path of each sweep through the plane; its last model is the sweep's own."""
    kept = kept_by_sweeps(record)
    for sweep in kept["sweep"].unique().tolist():
        members = sorted(kept.loc[kept["sweep"] == sweep, "trial"])
        path = points.set_index("trial").reindex([*members, int(sweep)])[["x", "y"]]
        yield path.dropna().reset_index(drop=True)


def plane_metrics(record: StudyRecord) -> tuple[str, ...]:
    """The two objectives. Where there are more, or one only, reconstruction and KL if every trial has them."""
    objectives = tuple(objective_signs(record.config))
    if set(PLANE) <= set(objectives):
        return PLANE
    if len(objectives) == 2:
        return objectives
    tried = record.trials[record.trials["state"].ne("failed") & np.isfinite(numbers(record.trials, objectives[0]))]
    rated = np.isfinite([numbers(tried, metric) for metric in PLANE]).all()
    return PLANE if len(tried) and rated else objectives[:2]


def _limits(points: pd.DataFrame, name: str) -> Limits:
    finished = points[points["state"].eq("finished")]
    values = (finished if len(finished) else points)[name].to_numpy()
    first, third = np.quantile(values, [0.25, 0.75])
    bulk = values[np.abs(values - (first + third) / 2) <= 4.5 * (third - first)]
    kept = np.concatenate([bulk, points.loc[points["frontier"] | points["champion"], name].to_numpy()])
    kept = kept if len(kept) else values
    margin = 0.06 * (kept.max() - kept.min()) or 1.0
    return float(kept.min() - margin), float(kept.max() + margin)


# Above this, a page of SVG no longer scrolls smoothly on a laptop.
MOST_POINTS = 3000
MOST_LINES = 400
# A plane of a page's width has no room for more dots than this across.
CELLS = 90


def sampled_trials(tables: StudyTables) -> SampledTrials:
    """Sample the trials to draw: the frontier, the chosen trial, and others so that the cloud keeps its shape."""
    trials, table = tables.trials, tables.of(plane)
    chosen = [tables.summary.champion_trial] if tables.summary.champion_trial is not None else []
    always = np.unique(np.asarray([*tables.frontier["trial"], *chosen], dtype=np.int64))
    few = _thinned(trials.loc[trials["state"].eq("finished"), "trial"], always, MOST_LINES)
    cloud = few if isinstance(table, Missing) else _cloud(table, np.union1d(always, few))
    total = 0 if isinstance(table, Missing) else len(table.points)
    kept = trials[trials["trial"].isin(np.union1d(cloud, few))].reset_index(drop=True)
    return SampledTrials(record=tables.record, trials=kept, few=frozenset(few.tolist()), total=total)


def _cloud(table: Plane, always: NDArray[np.int64]) -> NDArray[np.int64]:
    """One trial of a state in each cell of the plane, where all together are too many."""
    points = table.points
    if len(points) <= MOST_POINTS:
        return points["trial"].to_numpy(np.int64)
    # All values outside the view are in the border cell on their side.
    cells = {
        name: ((points[name] - low) / (high - low) * CELLS).clip(-1, CELLS) // 1
        for name, (low, high) in (("x", table.x), ("y", table.y))
    }
    first = ~points.assign(**cells)[["state", "x", "y"]].duplicated()
    return _thinned(points.loc[first | points["trial"].isin(always), "trial"], always, MOST_POINTS)


def _thinned(trials: "pd.Series[int]", always: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` trials, evenly spaced: first those of `always`, then others."""
    is_first = trials.isin(always)
    first, rest = trials[is_first].to_numpy(np.int64), trials[~is_first].to_numpy(np.int64)
    first = first[thinned(len(first), most)]
    return np.sort(np.concatenate([first, rest[thinned(len(rest), most - len(first))]]))
