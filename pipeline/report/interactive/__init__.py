"""Live figures of the same tables that the static ones draw; a page shows them where scripts run.

tables -> live figures (traces and layouts, plain) -> JSON in the page -> templates/report.js -> plotly.js
"""

import json
from collections.abc import Mapping

from pipeline.report.figures.slices import by_target
from pipeline.report.figures.style import scale_colours
from pipeline.report.interactive.curves import live_contour, live_course, live_hypervolume, live_training
from pipeline.report.interactive.drawn import Drawn, drawn_trials, run_links, told
from pipeline.report.interactive.library import library_hash, packed_library, script_hash
from pipeline.report.interactive.live import Live
from pipeline.report.interactive.panels import live_frontier_auroc, live_importances, live_slices
from pipeline.report.interactive.parallel import live_parallel
from pipeline.report.interactive.plane import live_plane, live_strip
from pipeline.report.tables import (
    Contour,
    Course,
    FrontierAuroc,
    HypervolumeHistory,
    Importances,
    Parallel,
    Plane,
    Strip,
    StudyTables,
    TrainingCurves,
)

__all__ = ["Live", "library_hash", "live_figures", "live_json", "packed_library", "run_links", "script_hash"]


def live_figures(tables: StudyTables) -> dict[str, Live]:
    """The live ones of the figures, by the names of the static ones in whose place they are."""
    drawn = drawn_trials(tables)
    return {**_of_search(tables, drawn), **_of_parameters(tables, drawn), **_by_epoch(tables)}


def _of_search(tables: StudyTables, drawn: Drawn) -> dict[str, Live]:
    found: dict[str, Live] = {}
    if isinstance(tables.plane, Plane):
        found["plane"] = live_plane(tables.plane, tables, drawn)
    if isinstance(tables.plane, Strip):
        found["plane"] = live_strip(tables.plane, tables, drawn)
    if isinstance(tables.hypervolume, HypervolumeHistory):
        found["hypervolume"] = live_hypervolume(tables.hypervolume)
    if isinstance(tables.frontier_auroc, FrontierAuroc):
        found["frontier_auroc"] = live_frontier_auroc(tables.frontier_auroc, drawn)
    return found


def _of_parameters(tables: StudyTables, drawn: Drawn) -> dict[str, Live]:
    found: dict[str, Live] = {}
    if isinstance(tables.importances, Importances):
        found["importances"] = live_importances(tables.importances)
    if isinstance(tables.parallel, Parallel):
        found["parallel"] = live_parallel(tables.parallel, drawn)
    if tables.slices:
        found["slices"] = live_slices(by_target(tables), drawn)
    if isinstance(tables.contour, Contour):
        found["contour"] = live_contour(tables.contour, drawn)
    return found


def _by_epoch(tables: StudyTables) -> dict[str, Live]:
    found: dict[str, Live] = {}
    if isinstance(tables.training, TrainingCurves):
        found["training"] = live_training(tables.training)
    if isinstance(tables.course, Course):
        found["course"] = live_course(tables.course)
    return found


def live_json(tables: StudyTables, figures: Mapping[str, Live]) -> str:
    """What the page's script draws, fit for a script element; empty where there is nothing to draw."""
    if not figures:
        return ""
    content = {
        "scale": {mode: scale_colours(dark=mode == "dark") for mode in ("light", "dark")},
        "trials": told(tables, drawn_trials(tables)),
        "figures": {name: figure.plain() for name, figure in figures.items()},
    }
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
