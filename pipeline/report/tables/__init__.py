"""A study's numbers as small typed tables. Nothing here draws or writes."""

from dataclasses import dataclass

import pandas as pd

from pipeline.report.tables.choice import Choice, Collapse, Edge, choices, collapse, edges
from pipeline.report.tables.detection import AurocSlice, Curves, Scores, auroc_slice, curves, scores
from pipeline.report.tables.examples import Reconstructions, Samples, reconstructions, samples
from pipeline.report.tables.frames import FIRST_PARAMETERS, Interval, Missing, searched_parameters, tidy, with_state
from pipeline.report.tables.frontier import HypervolumeHistory, Plane, frontier, hypervolume_history, plane
from pipeline.report.tables.summary import StudySummary, summary
from pipeline.report.tables.training import TrainingCurves, training_curves
from pipeline.tracking.record import StudyRecord

__all__ = [
    "AurocSlice",
    "Choice",
    "Collapse",
    "Curves",
    "Edge",
    "HypervolumeHistory",
    "Interval",
    "Missing",
    "Plane",
    "Reconstructions",
    "Samples",
    "Scores",
    "StudySummary",
    "StudyTables",
    "TrainingCurves",
    "study_tables",
    "summary",
    "tidy",
]


@dataclass(frozen=True, kw_only=True)
class StudyTables:
    """Everything that a report says, computed once and drawn or written as often as needed.

    Attributes:
        frontier, trials: A row a trial, as in the record.
        parameters: Columns of the searched parameters.
        failures: Numbers of the failed trials by failure class.
        The others: see their types; `Missing` says why a table is not there.
    """

    record: StudyRecord
    summary: StudySummary
    parameters: tuple[str, ...]
    frontier: pd.DataFrame
    trials: pd.DataFrame
    plane: Plane | Missing
    hypervolume: HypervolumeHistory | Missing
    auroc: tuple[AurocSlice | Missing, ...]
    training: TrainingCurves | Missing
    scores: Scores | Missing
    curves: Curves | Missing
    reconstructions: Reconstructions | Missing
    samples: Samples | Missing
    choices: tuple[Choice, ...]
    collapse: Collapse
    edges: tuple[Edge, ...]
    failures: dict[str, list[int]]


def study_tables(record: StudyRecord) -> StudyTables:
    """All tables of a study."""
    record = tidy(record)
    return StudyTables(
        record=record,
        summary=summary(record),
        parameters=searched_parameters(record),
        frontier=frontier(record),
        trials=record.trials,
        plane=plane(record),
        hypervolume=hypervolume_history(record),
        auroc=tuple(auroc_slice(record, name) for name in FIRST_PARAMETERS),
        training=training_curves(record),
        scores=scores(record),
        curves=curves(record),
        reconstructions=reconstructions(record),
        samples=samples(record),
        choices=choices(record),
        collapse=collapse(record),
        edges=edges(record),
        failures=_failures(record),
    )


def _failures(record: StudyRecord) -> dict[str, list[int]]:
    failed = with_state(record, "failed")
    kinds = failed["failure"].fillna("unknown").astype(str)
    return {str(kind): [int(trial) for trial in group] for kind, group in failed["trial"].groupby(kinds)}
