"""The reconstruction/KL trade-off: the frontier, the plane it lies in, and the hypervolume it gained trial by trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.tables.frames import Floats, Missing, numbers, with_state
from pipeline.search.pareto import hypervolume, non_dominated
from pipeline.tracking.record import StudyRecord

Limits = tuple[float, float]

PLANE = ("val/reconstruction", "val/kl")
DEFAULT_OBJECTIVES = tuple({"metric": metric, "direction": "minimize"} for metric in PLANE)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Trials by their last validation reconstruction and KL.

    Attributes:
        points: A row a trial that measured both: `trial`, `state`, `reconstruction` and `kl` (nats per example),
            `auroc` (validation; NaN where unknown), `frontier`, `champion`.
        off_plane: Trials that are not in `points`, counted by state.
        x, y: Limits of reconstruction and KL that hold the frontier and the bulk of the finished trials, so that a few
            that went far off do not squeeze the rest.
        objectives_are_the_axes: Whether the frontier is the lower left border of this plane.
    """

    points: pd.DataFrame
    off_plane: Mapping[str, int]
    x: Limits
    y: Limits
    objectives_are_the_axes: bool


@dataclass(frozen=True, kw_only=True)
class HypervolumeHistory:
    """Hypervolume of the frontier after each finished trial, in the order of trial numbers.

    Attributes:
        trial_N: Numbers of the finished trials.
        hypervolume_N: In the product of the objectives' units (nats squared for reconstruction and KL).
        reference: The fixed reference point, by objective metric.
    """

    trial_N: NDArray[np.int64]
    hypervolume_N: Floats
    reference: Mapping[str, float]


def objective_signs(spec: Mapping[str, Any]) -> dict[str, float]:
    """The objectives' metrics, with -1 for those that are maximized."""
    objectives = spec.get("objectives") or DEFAULT_OBJECTIVES
    return {o["metric"]: -1.0 if o.get("direction") == "maximize" else 1.0 for o in objectives}


def minimized_objectives(trials: pd.DataFrame, spec: Mapping[str, Any]) -> Floats:
    """Objective values of N trials and M objectives, shape (N, M), negated where they are maximized."""
    return np.column_stack([sign * numbers(trials, metric) for metric, sign in objective_signs(spec).items()])


def frontier(record: StudyRecord) -> pd.DataFrame:
    """The finished trials that no finished trial dominates, by the first objective from best to worst.

    A stopped or running trial is never among them: its values are those of a model that was still in training.
    """
    finished = with_state(record, "finished")
    values = minimized_objectives(finished, record.spec)
    chosen = finished[non_dominated(values)]
    order = np.argsort(values[chosen.index, 0], kind="stable")
    return chosen.iloc[order].reset_index(drop=True)


def plane(record: StudyRecord) -> Plane | Missing:
    """Every trial that measured reconstruction and KL."""
    trials = record.trials
    points = pd.DataFrame(
        {
            "trial": trials["trial"],
            "state": trials["state"],
            "reconstruction": numbers(trials, PLANE[0]),
            "kl": numbers(trials, PLANE[1]),
            "auroc": numbers(trials, "val/auroc"),
            "frontier": trials["trial"].isin(frontier(record)["trial"]),
            "champion": trials["trial"] == (record.champion.trial if record.champion else -1),
        }
    )
    finite = np.isfinite(points[["reconstruction", "kl"]].to_numpy()).all(axis=1)
    measured = points["state"].ne("failed") & finite
    off_plane = points[~measured]["state"].value_counts(sort=False)
    if not measured.any():
        return Missing("No trial has measured both reconstruction and KL on the validation split.")
    points = points[measured].reset_index(drop=True)
    return Plane(
        points=points,
        off_plane={str(state): int(count) for state, count in off_plane.items()},
        x=_limits(points, "reconstruction"),
        y=_limits(points, "kl"),
        objectives_are_the_axes=objective_signs(record.spec) == dict.fromkeys(PLANE, 1.0),
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


def hypervolume_history(record: StudyRecord) -> HypervolumeHistory | Missing:
    """The hypervolume after each finished trial against the study's fixed reference point."""
    signs = objective_signs(record.spec)
    if missing := [metric for metric in signs if metric not in record.reference]:
        return Missing(f"The study has no reference point for {', '.join(missing)}, so there is no hypervolume yet.")
    finished = with_state(record, "finished")
    if finished.empty:
        return Missing("No trial has finished, so there is no hypervolume yet.")
    reference = [sign * record.reference[metric] for metric, sign in signs.items()]
    return HypervolumeHistory(
        trial_N=finished["trial"].to_numpy(np.int64),
        hypervolume_N=_growing(minimized_objectives(finished, record.spec), reference),
        reference={metric: float(record.reference[metric]) for metric in signs},
    )


def _growing(values_NM: Floats, reference_M: list[float]) -> Floats:
    """The hypervolume of the first 1, 2, .. N points; only the frontier so far is kept, which stays small."""
    volumes, volume, kept = [], 0.0, values_NM[:0]
    for point in values_NM:
        candidates = np.vstack([kept, point])
        mask = non_dominated(candidates)
        if mask[-1]:
            kept = candidates[mask]
            volume = hypervolume(kept, reference_M)
        volumes.append(volume)
    return np.asarray(volumes, dtype=np.float64)
