"""Judging a trial at a rung by what the study store knows of the others."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from pipeline.search.attributes import rung_key
from pipeline.search.early_stopping import goes_on
from pipeline.spec import StudySpec
from pipeline.spec.metrics import DIRECTIONS


def judgement(
    spec: StudySpec, others: Iterable[FrozenTrial], rung: int, metrics: Mapping[str, float], is_late: bool
) -> dict[str, Any]:
    """What is written down of a trial at a rung: whether it goes on, and the values that later ones are compared with.

    Args:
        spec: Which metrics are compared, and how.
        others: The study's other trials.
        rung: The epoch that those were judged after.
        metrics: The trial's own, after its last epoch.
        is_late: Whether that is a later epoch than the rung: such values would raise the bar for all that follow, and
            are not kept.
    """
    compared = compared_metrics(spec)
    values = [metrics.get(metric, math.nan) for metric in compared]
    signs_M = np.array(list(compared.values()))
    kept = [trial.user_attrs.get(rung_key(rung), {}).get("values") for trial in others]
    record_NM = np.array([row for row in kept if row is not None]).reshape(-1, len(compared))
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
