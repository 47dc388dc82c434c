"""Figures outside a report, from a study that has not been read back."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.report.figures.style import png
from pipeline.report.figures.trade_off import draw_plane, draw_strip
from pipeline.report.tables import Plane, Strip
from pipeline.report.tables.plane import plane
from pipeline.tracking.record import StudyRecord


def frontier_png(
    name: str, spec: Mapping[str, Any], trials: pd.DataFrame, reference: Mapping[str, float]
) -> bytes | None:
    """The trade-off of a study's trials; None where no trial has measured it.

    Args:
        name: The study's name.
        spec: The resolved spec, plain.
        trials: A row a trial.
        reference: The hypervolume's reference point.
    """
    record = StudyRecord(
        name=name,
        spec=spec,
        data={},
        environment={},
        trials=trials,
        history=pd.DataFrame(),
        reference=reference,
        champion=None,
        tracking_uri="",
        experiment_id="",
        run_id="",
    )
    table = plane(record) if not trials.empty else None
    if isinstance(table, Plane):
        return png(lambda: draw_plane(table), dots_per_inch=100)
    return png(lambda: draw_strip(table), dots_per_inch=100) if isinstance(table, Strip) else None
