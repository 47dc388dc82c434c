"""Pictures of tables. Each draws one table and computes nothing but where to put ink."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.figure import Figure

from pipeline.report import captions, captions_detection, captions_mattered, captions_model
from pipeline.report.figures.codes import draw_latent_map, draw_latent_use
from pipeline.report.figures.confirmation import draw_confirmation
from pipeline.report.figures.contour import draw_contour
from pipeline.report.figures.course import draw_course
from pipeline.report.figures.detection import draw_auroc, draw_curves, draw_scores
from pipeline.report.figures.examples import draw_reconstructions, draw_samples, draw_strips
from pipeline.report.figures.frontier_auroc import draw_frontier_auroc
from pipeline.report.figures.importances import draw_importances
from pipeline.report.figures.parallel import draw_parallel
from pipeline.report.figures.side_by_side import draw_side_by_side
from pipeline.report.figures.slices import MOST_SLICES, by_target, draw_slices
from pipeline.report.figures.style import png
from pipeline.report.figures.top import draw_top
from pipeline.report.figures.trade_off import draw_hypervolume, draw_plane, draw_strip
from pipeline.report.figures.training import draw_training
from pipeline.report.tables import AurocSlice, Knee, Missing, Plane, Strip, StudyTables, Top
from pipeline.report.words import Words

Table = TypeVar("Table")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A figure with its words, or the sentence that stands in its place.

    Attributes:
        name: The stem of its file.
        png: The picture; None where its data is missing.
        words: Title, caption and a text for those who do not see it.
        missing: Why there is no picture; empty where there is one.
    """

    name: str
    png: bytes | None
    words: Words
    missing: str = ""


def panels(tables: StudyTables) -> dict[str, Panel]:
    """All figures of a report by name."""
    drawn = (*_of_search(tables), *_of_parameters(tables), *_of_model(tables))
    return {panel.name: panel for panel in drawn}


def _of_search(tables: StudyTables) -> tuple[Panel, ...]:
    champion = tables.summary.champion_trial
    return (
        _plane(tables.plane, tables.knee),
        _panel("hypervolume", tables.hypervolume, draw_hypervolume, captions.hypervolume),
        _panel("auroc", _known(tables.auroc), draw_auroc, captions.auroc),
        _panel("frontier_auroc", tables.frontier_auroc, draw_frontier_auroc, captions_mattered.frontier_auroc),
        _panel("side_by_side", tables.side_by_side, draw_side_by_side, captions_detection.side_by_side),
        _panel("confirmation", tables.confirmation, lambda t: draw_confirmation(t, champion), captions.confirmation),
        _panel("training", tables.training, draw_training, captions.training),
        _panel("course", tables.course, draw_course, captions_mattered.course),
    )


def _of_parameters(tables: StudyTables) -> tuple[Panel, ...]:
    say, first = captions_mattered, next(iter(by_target(tables).values()), ())
    shown, left_out = first[:MOST_SLICES], max(0, len(first) - MOST_SLICES)
    none = Missing("No finished trial has both a searched parameter and an objective.")
    return (
        _panel("importances", tables.importances, draw_importances, say.importances),
        _panel("parallel", tables.parallel, draw_parallel, say.parallel),
        _panel("slices", shown or none, draw_slices, lambda some: say.slices(some, left_out)),
        _panel("contour", tables.contour, draw_contour, say.contour),
    )


def _of_model(tables: StudyTables) -> tuple[Panel, ...]:
    say = captions_model
    return (
        _panel("scores", tables.scores, draw_scores, captions_detection.scores),
        _panel("curves", tables.curves, draw_curves, captions_detection.curves),
        _panel("top", _pictured(tables.top), draw_top, captions_detection.top),
        _panel("reconstructions", tables.reconstructions, draw_reconstructions, say.reconstructions),
        _panel("latent_map", tables.latent_map, draw_latent_map, say.latent_map),
        _panel("latent_use", tables.latent_use, draw_latent_use, say.latent_use),
        _panel("traversals", tables.traversals, draw_strips, say.traversals),
        _panel("interpolations", tables.interpolations, draw_strips, say.interpolations),
        _panel("samples", tables.samples, draw_samples, say.samples),
    )


def _plane(table: Plane | Strip | Missing, found: Knee | Missing) -> Panel:
    if isinstance(table, Strip):
        return _panel("plane", table, draw_strip, captions.strip)
    knee = None if isinstance(found, Missing) else found.trial
    return _panel("plane", table, lambda some: draw_plane(some, knee), lambda some: captions.plane(some, knee))


def _panel(name: str, table: Table | Missing, draw: Callable[[Table], Figure], say: Callable[[Table], Words]) -> Panel:
    if isinstance(table, Missing):
        return Panel(name=name, png=None, words=Words(), missing=table.why)
    return Panel(name=name, png=png(lambda: draw(table)), words=say(table))


def _pictured(table: Top | Missing) -> Top | Missing:
    if isinstance(table, Missing) or table.pictures is not None:
        return table
    return Missing("The rows are no images, or the study kept none of them.")


def _known(slices: tuple[AurocSlice | Missing, ...]) -> tuple[AurocSlice, ...] | Missing:
    known = tuple(table for table in slices if not isinstance(table, Missing))
    return known or Missing("No finished trial has a validation AUROC, for which labelled anomalies are needed.")
