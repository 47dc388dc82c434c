"""Pictures of tables. Each draws one table and computes nothing but where to put ink."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from matplotlib.figure import Figure

from pipeline.report import captions
from pipeline.report.captions import Words
from pipeline.report.figures.detection import draw_auroc, draw_curves, draw_scores
from pipeline.report.figures.examples import draw_reconstructions, draw_samples
from pipeline.report.figures.style import png
from pipeline.report.figures.trade_off import draw_hypervolume, draw_plane
from pipeline.report.figures.training import draw_training
from pipeline.report.tables import AurocSlice, Missing, StudyTables

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
    drawn = (
        _panel("plane", tables.plane, draw_plane, captions.plane),
        _panel("hypervolume", tables.hypervolume, draw_hypervolume, captions.hypervolume),
        _panel("auroc", _known(tables.auroc), draw_auroc, captions.auroc),
        _panel("training", tables.training, draw_training, captions.training),
        _panel("scores", tables.scores, draw_scores, captions.scores),
        _panel("curves", tables.curves, draw_curves, captions.curves),
        _panel("reconstructions", tables.reconstructions, draw_reconstructions, captions.reconstructions),
        _panel("samples", tables.samples, draw_samples, captions.samples),
    )
    return {panel.name: panel for panel in drawn}


def _panel(name: str, table: Table | Missing, draw: Callable[[Table], Figure], say: Callable[[Table], Words]) -> Panel:
    if isinstance(table, Missing):
        return Panel(name=name, png=None, words=Words(), missing=table.why)
    return Panel(name=name, png=png(lambda: draw(table)), words=say(table))


def _known(slices: tuple[AurocSlice | Missing, ...]) -> tuple[AurocSlice, ...] | Missing:
    known = tuple(table for table in slices if not isinstance(table, Missing))
    return known or Missing("No finished trial has a validation AUROC, for which labelled anomalies are needed.")
