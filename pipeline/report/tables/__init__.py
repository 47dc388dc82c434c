"""A study's numbers as small typed tables. Nothing here draws or writes."""

from dataclasses import dataclass

import pandas as pd

from pipeline.report.tables.choice import Choice, Collapse, Edge, choices, collapse, edges
from pipeline.report.tables.codes import CodeFacts, LatentMap, LatentUse, code_facts, latent_map, latent_use
from pipeline.report.tables.confirmation import Confirmation, confirmation
from pipeline.report.tables.detection import Curves, Scores, curves, scores
from pipeline.report.tables.examples import (
    Reconstructions,
    Samples,
    Strips,
    interpolations,
    reconstructions,
    samples,
    traversals,
)
from pipeline.report.tables.frames import FIRST_PARAMETERS, Interval, Missing, searched_parameters, tidy, with_state
from pipeline.report.tables.frontier import HypervolumeHistory, frontier, hypervolume_history
from pipeline.report.tables.plane import Plane, Strip, plane
from pipeline.report.tables.slices import AurocSlice, auroc_slice
from pipeline.report.tables.summary import StudySummary, summary
from pipeline.report.tables.training import TrainingCurves, training_curves
from pipeline.tracking.record import StudyRecord

__all__ = [
    "AurocSlice",
    "Choice",
    "CodeFacts",
    "Collapse",
    "Confirmation",
    "Curves",
    "Edge",
    "HypervolumeHistory",
    "Interval",
    "LatentMap",
    "LatentUse",
    "Missing",
    "Plane",
    "Reconstructions",
    "Samples",
    "Scores",
    "Strip",
    "Strips",
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
    plane: Plane | Strip | Missing
    hypervolume: HypervolumeHistory | Missing
    auroc: tuple[AurocSlice | Missing, ...]
    training: TrainingCurves | Missing
    scores: Scores | Missing
    curves: Curves | Missing
    reconstructions: Reconstructions | Missing
    samples: Samples | Missing
    latent_map: LatentMap | Missing
    latent_use: LatentUse | Missing
    traversals: Strips | Missing
    interpolations: Strips | Missing
    confirmation: Confirmation | Missing
    code: CodeFacts
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
        latent_map=latent_map(record),
        latent_use=latent_use(record),
        traversals=traversals(record),
        interpolations=interpolations(record),
        confirmation=confirmation(record),
        code=code_facts(record),
        choices=choices(record),
        collapse=collapse(record),
        edges=edges(record),
        failures=_failures(record),
    )


def _failures(record: StudyRecord) -> dict[str, list[int]]:
    failed = with_state(record, "failed")
    kinds = failed["failure"].fillna("unknown").astype(str)
    return {str(kind): [int(trial) for trial in group] for kind, group in failed["trial"].groupby(kinds)}
