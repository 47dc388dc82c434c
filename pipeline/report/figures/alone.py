"""Figures outside a report, from a study that has not been read back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.choosing import Pick
from pipeline.report.figures.style import png
from pipeline.report.figures.trade_off import draw_plane, draw_strip
from pipeline.report.tables import Plane, Strip
from pipeline.report.tables.plane import plane
from pipeline.tracking.record import ChampionRecord, StudyRecord


def frontier_png(
    name: str,
    spec: Mapping[str, Any],
    trials: pd.DataFrame,
    reference: Mapping[str, float],
    champion: Pick | None = None,
) -> bytes | None:
    """The trade-off of a study's trials; None where no trial has measured it.

    Args:
        name: The study's name.
        spec: The resolved spec, plain.
        trials: A row a trial.
        reference: The hypervolume's reference point.
        champion: The chosen trial, which is marked.
    """
    record = StudyRecord(
        name=name,
        spec=spec,
        data={},
        environment={},
        trials=trials,
        history=pd.DataFrame(),
        reference=reference,
        champion=_record(champion) if champion else None,
        tracking_uri="",
        experiment_id="",
        run_id="",
    )
    table = plane(record) if not trials.empty else None
    if isinstance(table, Plane):
        return png(lambda: draw_plane(table), dots_per_inch=100)
    return png(lambda: draw_strip(table), dots_per_inch=100) if isinstance(table, Strip) else None


def _record(champion: Pick) -> ChampionRecord:
    """The chosen trial by its number and score alone: the trade-off needs nothing of what it has stored."""
    none_00 = np.empty((0, 0), np.float32)
    return ChampionRecord(
        trial=champion.trial,
        rule="",
        score=champion.score,
        scores=pd.DataFrame(),
        inputs_ND=none_00,
        reconstructions_ND=none_00,
        input_is_anomaly_N=np.empty(0, np.bool_),
        samples_MD=none_00,
    )
