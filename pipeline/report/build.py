"""Writes a report's folder, whole or not at all."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.report import render
from pipeline.report.figures import Panel, panels
from pipeline.report.tables import StudyTables, study_tables
from pipeline.tracking.record import StudyRecord


def write_report(record: StudyRecord, folder: Path) -> Path:
    """Writes report.html, report.md, trials.parquet, history.parquet, frontier.csv and figures/ into a folder.

    The same record gives the same bytes. The files are written beside the folder first and then moved, so that a
    reader never sees half a report; figures of an earlier report go, other files in the folder stay.

    Args:
        record: The study.
        folder: Where to write; made if it does not exist.

    Returns:
        The path of report.html.
    """
    tables = study_tables(record)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        draft = Path(temporary) / "report"
        draft.mkdir()
        _write(tables, panels(tables), draft)
        _move(draft, folder)
    return folder / "report.html"


def _write(tables: StudyTables, drawn: dict[str, Panel], folder: Path) -> None:
    (folder / "figures").mkdir()
    for panel in drawn.values():
        if panel.png is not None:
            (folder / "figures" / f"{panel.name}.png").write_bytes(panel.png)
    storable(tables.trials).to_parquet(folder / "trials.parquet", index=False)
    storable(tables.record.history).to_parquet(folder / "history.parquet", index=False)
    storable(tables.frontier).to_csv(folder / "frontier.csv", index=False, lineterminator="\n")
    (folder / "report.md").write_text(render.markdown(tables, drawn), encoding="utf-8", newline="\n")
    (folder / "report.html").write_text(render.html(tables, drawn), encoding="utf-8", newline="\n")


def _move(draft: Path, folder: Path) -> None:
    """The figures go first and the page last, so that a page never names a figure that is not there yet."""
    old = draft.parent / "old-figures"
    if (folder / "figures").exists():
        (folder / "figures").rename(old)
    for path in sorted(draft.iterdir(), key=lambda path: (path.name != "figures", path.suffix == ".html", path.name)):
        path.replace(folder / path.name)
    shutil.rmtree(old, ignore_errors=True)


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns of mixed kinds (a choice of 0 and "auto") as text, since Parquet has one type a column."""
    return frame.assign(**{str(name): _storable(frame[name]) for name in frame.columns if frame[name].dtype == object})


def _storable(column: "pd.Series[Any]") -> "pd.Series[Any]":
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind.startswith("mixed"):
        column = column.map(
            lambda value: value if isinstance(value, str) else json.dumps(value, default=str), na_action="ignore"
        )
    return column.astype("string") if kind.startswith(("mixed", "string", "empty")) else column
