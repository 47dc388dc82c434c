"""Judging a trial at a rung by what the study store knows of the others."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.search.early_stopping import Floats, goes_on
from pipeline.spec import StudySpec
from pipeline.spec.metrics import DIRECTIONS


def judgement(spec: StudySpec, record_NM: Floats, metrics: Mapping[str, float], is_late: bool) -> dict[str, Any]:
    """What is written down of a trial at a rung: whether it goes on, and the values that later ones are compared with.

    Args:
        spec: Which metrics are compared, and how.
        record_NM: What `compared_metrics` names, of the trials that were judged at the same rung.
        metrics: The trial's own, after its last epoch.
        is_late: Whether that is a later epoch than the rung: such values would raise the bar for all that follow, and
            are not kept.
    """
    compared = compared_metrics(spec)
    values = [metrics.get(metric, math.nan) for metric in compared]
    signs_M = np.array(list(compared.values()))
    stopping = spec.early_stopping
    verdict = goes_on(stopping.kind, signs_M * record_NM, signs_M * values, stopping.reduction_factor)
    is_kept = not is_late and all(map(math.isfinite, values))
    return {"values": values, "goes_on": verdict} if is_kept else {"goes_on": verdict}


def compared_metrics(spec: StudySpec) -> dict[str, float]:
    """The metrics that early stopping compares: 1 where less is better, -1 where more is."""
    one = spec.early_stopping.metric
    directions = (
        {one: DIRECTIONS[one]}
        if spec.early_stopping.compares_one_metric
        else {objective.metric: objective.direction for objective in spec.objectives}
    )
    return {metric: 1.0 if direction == "minimize" else -1.0 for metric, direction in directions.items()}
