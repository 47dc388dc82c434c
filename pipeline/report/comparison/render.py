"""Lays a comparison out as one HTML file and as Markdown, in the look of a report."""

import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.report.comparison import grids, prose
from pipeline.report.comparison.tables import Comparison
from pipeline.report.figures import Panel
from pipeline.report.render import environment


def html(table: Comparison, panels: Mapping[str, Panel]) -> str:
    """The comparison as one file that loads nothing."""
    return environment(autoescape=True).get_template("comparison.html").render(_context(table, panels))


def markdown(table: Comparison, panels: Mapping[str, Panel]) -> str:
    """The same content in Markdown, with the pictures in figures/."""
    return environment(autoescape=False).get_template("comparison.md").render(_context(table, panels))


def _context(table: Comparison, panels: Mapping[str, Panel]) -> dict[str, Any]:
    return {
        "names": table.names,
        "data": table.studies[0].record.data,
        "panels": panels,
        "overview": prose.overview(table),
        "cautions": prose.cautions(table),
        "studies": grids.study_grid(table),
        "chosen": grids.chosen_grid(table),
        "reference": grids.reference_grid(table),
        "differences": grids.difference_grid(table),
        "command": f"vae-study report {' '.join(map(shlex.quote, table.names))}",
    }
