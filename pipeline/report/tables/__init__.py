"""A study's numbers as small typed tables. Nothing here draws or writes."""

from dataclasses import dataclass

import pandas as pd

from pipeline.report.tables.choice import Choice, SideBySide, choices, side_by_side
from pipeline.report.tables.codes import CodeFacts, LatentMap, LatentUse, code_facts, latent_map, latent_use
from pipeline.report.tables.confirmation import Confirmation, confirmation
from pipeline.report.tables.constraints import Constraint, Constraints, constraints
from pipeline.report.tables.contest import Contest, baseline_contest, label_contest
from pipeline.report.tables.contour import Contour, contour
from pipeline.report.tables.course import Course, course
from pipeline.report.tables.detection import Curves, Scores, curves, scores
from pipeline.report.tables.doubts import Collapse, Edge, WarmUp, collapse, edges, warm_up
from pipeline.report.tables.examples import (
    Reconstructions,
    Samples,
    Strips,
    interpolations,
    reconstructions,
    samples,
    traversals,
)
from pipeline.report.tables.failures import Failure, Preemptions, failures, preemptions
from pipeline.report.tables.frames import FIRST_PARAMETERS, Interval, Missing, searched_parameters, tidy
from pipeline.report.tables.frontier import HypervolumeHistory, frontier, hypervolume_history
from pipeline.report.tables.frontier_auroc import FrontierAuroc, frontier_auroc
from pipeline.report.tables.importances import Importances, importances
from pipeline.report.tables.knee import Knee, knee
from pipeline.report.tables.parallel import Axis, Parallel, parallel
from pipeline.report.tables.plane import Plane, Strip, plane
from pipeline.report.tables.score_table import ScoreTable, score_table
from pipeline.report.tables.scored import champion_auroc
from pipeline.report.tables.slices import AurocSlice, Slice, auroc_slice, slices
from pipeline.report.tables.stopping import EarlyStopping, early_stopping
from pipeline.report.tables.summary import StudySummary, summarized, summary
from pipeline.report.tables.top import Top, top
from pipeline.report.tables.training import TrainingCurves, training_curves
from pipeline.tracking.record import StudyRecord

__all__ = [
    "AurocSlice",
    "Axis",
    "Choice",
    "CodeFacts",
    "Collapse",
    "Confirmation",
    "Constraint",
    "Constraints",
    "Contest",
    "Contour",
    "Course",
    "Curves",
    "EarlyStopping",
    "Edge",
    "Failure",
    "FrontierAuroc",
    "HypervolumeHistory",
    "Importances",
    "Interval",
    "Knee",
    "LatentMap",
    "LatentUse",
    "Missing",
    "Parallel",
    "Plane",
    "Preemptions",
    "Reconstructions",
    "Samples",
    "ScoreTable",
    "Scores",
    "SideBySide",
    "Slice",
    "Strip",
    "Strips",
    "StudySummary",
    "StudyTables",
    "Top",
    "TrainingCurves",
    "WarmUp",
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
        side_by_side: Those of `choices` that can be drawn.
        labels, baseline: The chosen model beside another rule and beside none; None where there is no such.
        stopping: None where the study stops no trial early.
        failures: The failed trials by failure class and reason.
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
    frontier_auroc: FrontierAuroc | Missing
    training: TrainingCurves | Missing
    scores: Scores | Missing
    curves: Curves | Missing
    score_table: ScoreTable | Missing
    top: Top | Missing
    reconstructions: Reconstructions | Missing
    samples: Samples | Missing
    latent_map: LatentMap | Missing
    latent_use: LatentUse | Missing
    traversals: Strips | Missing
    interpolations: Strips | Missing
    confirmation: Confirmation | Missing
    code: CodeFacts
    choices: tuple[Choice, ...]
    side_by_side: SideBySide | Missing
    labels: Contest | None
    baseline: Contest | None
    collapse: Collapse
    edges: tuple[Edge, ...]
    warm_up: WarmUp
    stopping: EarlyStopping | None
    constraints: Constraints
    failures: tuple[Failure, ...]
    preemptions: Preemptions
    importances: Importances | Missing
    parallel: Parallel | Missing
    slices: tuple[Slice, ...]
    contour: Contour | Missing
    knee: Knee | Missing
    course: Course | Missing


def study_tables(record: StudyRecord) -> StudyTables:
    """All tables of a study."""
    record = tidy(record)
    measured, found, matters = curves(record), choices(record), importances(record)
    # An interval is a bootstrap: once is enough.
    auroc = champion_auroc(record) if isinstance(measured, Missing) else measured.auroc
    return StudyTables(
        record=record,
        summary=summarized(record, auroc),
        parameters=searched_parameters(record),
        frontier=frontier(record),
        trials=record.trials,
        plane=plane(record),
        hypervolume=hypervolume_history(record),
        auroc=tuple(auroc_slice(record, name) for name in FIRST_PARAMETERS),
        frontier_auroc=frontier_auroc(record),
        training=training_curves(record),
        scores=scores(record),
        curves=measured,
        score_table=score_table(record),
        top=top(record),
        reconstructions=reconstructions(record),
        samples=samples(record),
        latent_map=latent_map(record),
        latent_use=latent_use(record),
        traversals=traversals(record),
        interpolations=interpolations(record),
        confirmation=confirmation(record),
        code=code_facts(record),
        choices=found,
        side_by_side=side_by_side(found, measured.why if isinstance(measured, Missing) else ""),
        labels=label_contest(found),
        baseline=baseline_contest(found),
        collapse=collapse(record),
        edges=edges(record, found),
        warm_up=warm_up(record),
        stopping=early_stopping(record),
        constraints=constraints(record),
        failures=failures(record),
        preemptions=preemptions(record),
        importances=matters,
        parallel=parallel(record),
        slices=slices(record),
        contour=contour(record, matters),
        knee=knee(record),
        course=course(record),
    )
