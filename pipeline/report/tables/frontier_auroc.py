"""What detection costs: the AUROC along the frontier with its intervals, and of all finished trials by the same."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.report.tables.frames import Missing, numbers, with_state
from pipeline.report.tables.frontier import PLANE, frontier, objective_signs
from pipeline.report.tables.scored import auroc_metric
from pipeline.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class FrontierAuroc:
    """AUROC against reconstruction, or against the first objective where that is none of a study's.

    Attributes:
        across: The metric across.
        test: A row a trial of the frontier with an AUROC on test, of the followed score: `trial`, `across`, `auroc`,
            `low` and `high` (95 % bootstrap interval, NaN where unknown), `champion`; ordered by `across`.
        validation: A row a finished trial: `trial`, `across`, `auroc`, `frontier`, `champion`; not of the test split,
            since one compares trials here.
        validation_metric: Which AUROC that is.
    """

    across: str
    test: pd.DataFrame
    validation: pd.DataFrame
    validation_metric: str


def frontier_auroc(record: StudyRecord) -> FrontierAuroc | Missing:
    """Missing where no finished trial has an AUROC on validation."""
    metric = auroc_metric(record, "val")
    objectives = objective_signs(record.spec)
    across = next((name for name in (PLANE[0], *objectives) if name in objectives), PLANE[0])
    members = frontier(record)
    validation = _rows(record, with_state(record, "finished"), across, metric)
    validation["frontier"] = validation["trial"].isin(members["trial"])
    if validation.empty:
        return Missing("No finished trial has a validation AUROC, for which labelled anomalies are needed.")
    test = _rows(record, members, across, "test/auroc")
    return FrontierAuroc(across=across, test=test, validation=validation, validation_metric=metric)


def _rows(record: StudyRecord, trials: pd.DataFrame, across: str, metric: str) -> pd.DataFrame:
    ends = {end: numbers(trials, f"test/auroc_{end}") for end in ("low", "high")} if metric == "test/auroc" else {}
    rows = pd.DataFrame(
        {
            "trial": trials["trial"].astype(int),
            "across": numbers(trials, across),
            "auroc": numbers(trials, metric),
            **ends,
            "champion": trials["trial"] == (record.champion.trial if record.champion else -1),
        }
    )
    known = np.isfinite(rows[["across", "auroc"]].to_numpy(np.float64)).all(axis=1)
    kept: pd.DataFrame = rows.loc[known].sort_values("across", kind="stable", ignore_index=True)
    return kept
