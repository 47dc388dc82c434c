"""Writes a report's folder, whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.report import render
from pipeline.report.cache import MADE_FROM, remember
from pipeline.report.figures import Panel, panels
from pipeline.report.tables import StudyTables, study_tables
from pipeline.tracking.record import StudyRecord

PAGE = "report.html"


def write_report(record: StudyRecord, folder: Path, made_from: Mapping[str, Any] | None = None) -> Path:
    """Writes report.html, report.md, trials.parquet, history.parquet, frontier.csv and figures/ into a folder.

    The same record gives the same bytes. The files are written beside the folder first and then moved, so that a
    reader never sees half a report; figures of an earlier report go, other files in the folder stay.

    Args:
        record: The study.
        folder: Where to write; made if it does not exist.
        made_from: What `cache.is_made_from` is to know the report by; None for one that is never served again.

    Returns:
        The path of report.html.
    """
    tables = study_tables(record)
    return write_folder(folder, lambda draft: _write(tables, panels(tables), draft), made_from)


def write_folder(folder: Path, write: Callable[[Path], None], made_from: Mapping[str, Any] | None) -> Path:
    """A report's folder by way of a draft beside it, which `write` fills; gives the path of report.html."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        draft = Path(temporary) / "report"
        draft.mkdir()
        write(draft)
        if made_from is not None:
            remember(draft, made_from)
        _move(draft, folder)
    return folder / PAGE


def _write(tables: StudyTables, drawn: dict[str, Panel], folder: Path) -> None:
    write_figures(drawn, folder)
    storable(tables.trials).to_parquet(folder / "trials.parquet", index=False)
    storable(tables.record.history).to_parquet(folder / "history.parquet", index=False)
    storable(tables.frontier).to_csv(folder / "frontier.csv", index=False, lineterminator="\n")
    write_text(folder / "report.md", render.markdown(tables, drawn))
    write_text(folder / PAGE, render.html(tables, drawn))


def write_figures(drawn: Mapping[str, Panel], folder: Path) -> None:
    """The pictures that there are, in figures/."""
    (folder / "figures").mkdir()
    for panel in drawn.values():
        if panel.png is not None:
            (folder / "figures" / f"{panel.name}.png").write_bytes(panel.png)


def write_text(path: Path, text: str) -> None:
    """The same bytes on every machine."""
    path.write_text(text, encoding="utf-8", newline="\n")


def _move(draft: Path, folder: Path) -> None:
    """The figures go first and the page last, so that a page never names a figure that is not there yet."""
    old = draft.parent / "old-figures"
    (folder / MADE_FROM).unlink(missing_ok=True)
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
