"""The trade-off between the objectives: the frontier, and the hypervolume it gained trial by trial."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.tables.frames import Floats, Missing, numbers, with_state
from pipeline.report.tables.stopping import epochs_trained
from pipeline.search.pareto import feasible, hypervolume, non_dominated
from pipeline.tracking.record import StudyRecord

PLANE = ("val/reconstruction", "val/kl")
DEFAULT_OBJECTIVES = tuple({"metric": metric, "direction": "minimize"} for metric in PLANE)


@dataclass(frozen=True, kw_only=True)
class HypervolumeHistory:
    """Hypervolume of the frontier after each finished trial, in the order of trial numbers.

    Attributes:
        trial_N: Numbers of the finished trials.
        hypervolume_N: In the product of the objectives' units (nats squared for reconstruction and KL); with one
            objective, how far the best trial lies beyond the reference.
        reference: The fixed reference point, by objective metric.
        epochs_N: Epochs that the trials up to this number trained, in any state; None where no history is known.
    """

    trial_N: NDArray[np.int64]
    hypervolume_N: Floats
    reference: Mapping[str, float]
    epochs_N: NDArray[np.int64] | None


def objective_signs(spec: Mapping[str, Any]) -> dict[str, float]:
    """The objectives' metrics, with -1 for those that are maximized."""
    objectives = spec.get("objectives") or DEFAULT_OBJECTIVES
    return {o["metric"]: -1.0 if o.get("direction") == "maximize" else 1.0 for o in objectives}


def minimized_objectives(trials: pd.DataFrame, spec: Mapping[str, Any]) -> Floats:
    """Objective values of N trials and M objectives, shape (N, M), negated where they are maximized."""
    return np.column_stack([sign * numbers(trials, metric) for metric, sign in objective_signs(spec).items()])


def frontier(record: StudyRecord) -> pd.DataFrame:
    """The finished, feasible trials that no such trial dominates, by the first objective from best to worst.

    A stopped or running trial is never among them: its values are those of a model that was still in training.
    """
    finished = feasible(with_state(record, "finished")).reset_index(drop=True)
    values = minimized_objectives(finished, record.spec)
    chosen = finished[non_dominated(values)]
    order = np.argsort(values[chosen.index, 0], kind="stable")
    return chosen.iloc[order].reset_index(drop=True)


def hypervolume_history(record: StudyRecord) -> HypervolumeHistory | Missing:
    """The hypervolume after each finished trial against the study's fixed reference point."""
    signs = objective_signs(record.spec)
    if missing := [metric for metric in signs if metric not in record.reference]:
        return Missing(f"The study has no reference point for {', '.join(missing)}, so there is no hypervolume yet.")
    finished = with_state(record, "finished")
    if finished.empty:
        return Missing("No trial has finished, so there is no hypervolume yet.")
    kept = finished["trial"].isin(feasible(finished)["trial"]).to_numpy()
    if not kept.any():
        return Missing("No finished trial keeps the constraints, so there is no hypervolume yet.")
    reference = [sign * record.reference[metric] for metric, sign in signs.items()]
    return HypervolumeHistory(
        trial_N=finished["trial"].to_numpy(np.int64),
        hypervolume_N=_growing(np.where(kept[:, None], minimized_objectives(finished, record.spec), np.nan), reference),
        reference={metric: float(record.reference[metric]) for metric in signs},
        epochs_N=_epochs(record, finished) if len(record.history) else None,
    )


def _epochs(record: StudyRecord, finished: pd.DataFrame) -> NDArray[np.int64]:
    together = epochs_trained(record).reindex(record.trials["trial"], fill_value=0).cumsum()
    return np.asarray(together[finished["trial"]], dtype=np.int64)


def _growing(values_NM: Floats, reference_M: list[float]) -> Floats:
    """The hypervolume of the first 1, 2, .. N points."""
    inside_N = np.isfinite(values_NM).all(axis=1) & (values_NM < np.asarray(reference_M)).all(axis=1)
    gained_N = np.zeros(len(values_NM))
    gain = _gained_in_plane if len(reference_M) == 2 else _gained
    gained_N[inside_N] = list(gain(values_NM[inside_N], reference_M))
    return gained_N.cumsum()


def _gained(values_NM: Floats, reference_M: list[float]) -> Iterator[float]:
    """What each point adds to the hypervolume of those before it; only the frontier so far is kept."""
    volume, kept = 0.0, values_NM[:0]
    for point in values_NM:
        if (kept <= point).all(axis=1).any():
            yield 0.0
            continue
        kept = np.vstack([kept[~(point <= kept).all(axis=1)], point])
        before, volume = volume, hypervolume(kept, reference_M)
        yield max(volume - before, 0.0)


def _gained_in_plane(values_N2: Floats, reference_2: list[float]) -> Iterator[float]:
    """The same by the steps that a point cuts from the staircase so far, so that thousands take no longer than many."""
    stairs: list[tuple[float, float]] = []
    for x, y in values_N2.tolist():
        first = last = bisect_left(stairs, (x, y))
        top, left, area = stairs[first - 1][1] if first else reference_2[1], x, 0.0
        if top <= y:
            yield 0.0
            continue
        while last < len(stairs) and stairs[last][1] >= y:
            area += (stairs[last][0] - left) * (top - y)
            left, top = stairs[last]
            last += 1
        right = stairs[last][0] if last < len(stairs) else reference_2[0]
        stairs[first:last] = [(x, y)]
        yield area + (right - left) * (top - y)
