"""The numbers of the trade-off: the frontier, its knee, and the hypervolume that it gained trial by trial."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.metrics import SIGNS
from vae_study.report.frames import Floats, Missing, epochs_trained, numbers, scalar, trial_numbers, with_state
from vae_study.selection.ranking import feasible, hypervolume, non_dominated
from vae_study.tracking.record import StudyRecord

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


def objective_signs(config: Mapping[str, Any]) -> dict[str, float]:
    """The objectives' metrics, with -1 for those that are maximized."""
    objectives = config.get("objectives") or DEFAULT_OBJECTIVES
    return {o["metric"]: SIGNS[o.get("direction", "minimize")] for o in objectives}


def minimized_objectives(trials: pd.DataFrame, config: Mapping[str, Any]) -> Floats:
    """Objective values of N trials and M objectives, shape (N, M), negated where they are maximized."""
    return np.column_stack([sign * numbers(trials, metric) for metric, sign in objective_signs(config).items()])


def frontier(record: StudyRecord) -> pd.DataFrame:
    """The finished, feasible trials that no such trial dominates, by the first objective from best to worst.

    A pruned or running trial is never among them: its values are those of a model that was still in training.
    """
    finished = feasible(with_state(record, "finished")).reset_index(drop=True)
    values = minimized_objectives(finished, record.config)
    chosen = finished[non_dominated(values)]
    order = np.argsort(values[chosen.index, 0], kind="stable")
    return chosen.iloc[order].reset_index(drop=True)


def marks(record: StudyRecord, trials: pd.DataFrame) -> dict[str, "pd.Series[bool]"]:
    """For each of some trials whether it is on the `frontier`, and whether it is the `champion`."""
    champion = record.champion.trial if record.champion else -1
    return {"frontier": trials["trial"].isin(frontier(record)["trial"]), "champion": trials["trial"].eq(champion)}


def hypervolume_history(record: StudyRecord) -> HypervolumeHistory | Missing:
    """The hypervolume after each finished trial against the study's fixed reference point."""
    signs = objective_signs(record.config)
    if missing := [metric for metric in signs if metric not in record.reference]:
        return Missing(f"The study has no reference point for {', '.join(missing)}, so there is no hypervolume yet.")
    finished = with_state(record, "finished")
    if finished.empty:
        return Missing("No trial has finished, so there is no hypervolume yet.")
    kept = finished["trial"].isin(feasible(finished)["trial"]).to_numpy()
    if not kept.any():
        return Missing("No finished trial satisfies the constraints, so there is no hypervolume yet.")
    reference_M = [sign * record.reference[metric] for metric, sign in signs.items()]
    values_NM, gained_N = minimized_objectives(finished, record.config), np.zeros(len(finished))
    inside_N = kept & np.isfinite(values_NM).all(axis=1) & (values_NM < np.asarray(reference_M)).all(axis=1)
    gained = _gained_in_plane if len(reference_M) == 2 else _gained
    gained_N[inside_N] = list(gained(values_NM[inside_N], reference_M))
    epochs_N = None
    if len(record.history):
        epochs = epochs_trained(record).reindex(record.trials["trial"], fill_value=0).cumsum()
        epochs_N = np.asarray(epochs[finished["trial"]], dtype=np.int64)
    return HypervolumeHistory(
        trial_N=finished["trial"].to_numpy(np.int64),
        hypervolume_N=gained_N.cumsum(),
        reference={metric: float(record.reference[metric]) for metric in signs},
        epochs_N=epochs_N,
    )


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
    """`_gained` for two objectives: sweep over the sorted frontier, with a binary search for each point."""
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


@dataclass(frozen=True, kw_only=True)
class Knee:
    """The frontier's trial, with its objectives, that lies farthest beyond the line between the frontier's ends.

    Das (1999), On characterizing the "knee" of the Pareto curve based on normal-boundary intersection, Structural
    Optimization 18: the line is that through the best of each objective, and farthest is along its normal.
    """

    trial: int
    metrics: Mapping[str, float]


def knee(record: StudyRecord) -> Knee | Missing:
    """The knee of two objectives; the first of equals.

    Where the distance is largest does not depend on the objectives' units, since scaling an axis multiplies all
    distances from the line alike.
    """
    metrics, members = tuple(objective_signs(record.config)), frontier(record)
    if len(metrics) != 2:
        return Missing(f"A knee is of two objectives; the study has {len(metrics)}.")
    if len(members) < 3:
        return Missing("The frontier has fewer than three trials, so it has no knee.")
    values_F2 = minimized_objectives(members, record.config)
    first, last = values_F2[values_F2[:, 0].argmin()], values_F2[values_F2[:, 0].argmax()]
    along, from_first_F2 = last - first, values_F2 - first
    # Twice the area of each point's triangle with the ends: the distance from their line, times a constant.
    area_F = from_first_F2[:, 0] * along[1] - from_first_F2[:, 1] * along[0]
    # A distance within rounding error is not a knee.
    if not (area_F > 1e-9 * np.abs(along).prod()).any():
        return Missing("No trial of the frontier lies beyond the line between its ends, so it has no knee.")
    found = members.iloc[[int(area_F.argmax())]]
    return Knee(trial=trial_numbers(found)[0], metrics={metric: scalar(found, metric) for metric in metrics})
