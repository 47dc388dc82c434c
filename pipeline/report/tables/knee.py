"""The frontier's knee: where giving up a little of one objective no longer gains much of the other."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.report.tables.frames import Floats, Missing, scalar, trial_numbers
from pipeline.report.tables.frontier import frontier, minimized_objectives, objective_signs
from pipeline.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class Knee:
    """The frontier's trial that lies farthest beyond the line between the frontier's ends (Das 1999).

    On characterizing the "knee" of the Pareto curve based on normal-boundary intersection, Structural Optimization 18:
    the line is that through the best of each objective, and farthest is along its normal.

    Attributes:
        trial: Its number.
        metrics: Its objectives.
    """

    trial: int
    metrics: Mapping[str, float]


def knee(record: StudyRecord) -> Knee | Missing:
    """The knee of two objectives; the first of equals.

    Where the distance is largest does not depend on the objectives' units, since scaling an axis multiplies all
    distances from the line alike.
    """
    metrics, members = tuple(objective_signs(record.spec)), frontier(record)
    if len(metrics) != 2:
        return Missing(f"A knee is of two objectives; the study has {len(metrics)}.")
    if len(members) < 3:
        return Missing("The frontier has fewer than three trials, so it has no knee.")
    beyond_F = _beyond(minimized_objectives(members, record.spec))
    if not (beyond_F > 0).any():
        return Missing("No trial of the frontier lies beyond the line between its ends, so it has no knee.")
    found = members.iloc[[int(beyond_F.argmax())]]
    return Knee(trial=trial_numbers(found)[0], metrics={metric: scalar(found, metric) for metric in metrics})


def _beyond(values_F2: Floats) -> Floats:
    """Twice the area of each point's triangle with the ends: the distance from their line, times a constant."""
    first, last = values_F2[values_F2[:, 0].argmin()], values_F2[values_F2[:, 0].argmax()]
    along, from_first_F2 = last - first, values_F2 - first
    area_F: Floats = from_first_F2[:, 0] * along[1] - from_first_F2[:, 1] * along[0]
    # What the sum of large numbers loses is no knee.
    return np.where(area_F > 1e-9 * np.abs(along).prod(), area_F, 0.0)
