"""Writes a comparison's folder, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.report.build import PAGE, storable, write_figures, write_folder, write_text
from pipeline.report.comparison import grids, render
from pipeline.report.comparison.figures import panels
from pipeline.report.comparison.tables import Comparison, compare
from pipeline.tracking.record import StudyRecord


def write_comparison(records: Sequence[StudyRecord], folder: Path) -> Path:
    """Writes report.html, report.md, studies.csv, frontiers.parquet, hypervolumes.parquet and figures/ into a folder.

    The same records in the same order give the same bytes; the folder is written as `write_report` writes its own.

    Args:
        records: The studies.
        folder: Where to write; made if it does not exist.

    Returns:
        The path of report.html.

    Raises:
        UserError: Fewer than two studies, one of them twice, or studies of different data or objectives.
    """
    table = compare(records)
    return write_folder(folder, lambda draft: _write(table, draft), None)


def _write(table: Comparison, folder: Path) -> None:
    drawn = panels(table)
    write_figures(drawn, folder)
    storable(grids.frontier_frame(table)).to_parquet(folder / "frontiers.parquet", index=False)
    storable(grids.hypervolume_frame(table)).to_parquet(folder / "hypervolumes.parquet", index=False)
    grids.study_frame(table).to_csv(folder / "studies.csv", index=False, lineterminator="\n")
    write_text(folder / "report.md", render.markdown(table, drawn))
    write_text(folder / PAGE, render.html(table, drawn))
