"""Writes a report's folder, whole or not at all, and remembers what it was made from.

At its top it imports nothing that draws, so that a report that is up to date is served quickly.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vae_study.errors import UserError

if TYPE_CHECKING:
    from vae_study.report.figure import Panel
    from vae_study.tracking.record import StudyRecord

PAGE = "report.html"


def write_report(record: "StudyRecord", folder: Path, made_from: Mapping[str, Any] | None = None) -> Path:
    """Writes report.html, report.md, trials.parquet, history.parquet, frontier.csv and figures/ into a folder.

    The same record gives the same bytes. The files are written beside the folder first and then moved, so that a
    reader never sees half a report; figures of an earlier report go, other files in the folder stay.

    Args:
        record: The study.
        folder: Where to write; made if it does not exist.
        made_from: What `is_made_from` compares later; None for a report that is never served again.

    Returns:
        The path of report.html.
    """
    from vae_study.report import page
    from vae_study.report.tables import StudyTables

    def write(draft: Path) -> None:
        tables = StudyTables(record)
        drawn = page.panels(tables)
        storable(tables.trials).to_parquet(draft / "trials.parquet", index=False)
        storable(tables.record.history).to_parquet(draft / "history.parquet", index=False)
        storable(tables.frontier).to_csv(draft / "frontier.csv", index=False, lineterminator="\n")
        write_page(draft, drawn, *page.pages(tables, drawn))

    return write_folder(folder, write, made_from)


def write_folder(folder: Path, write: Callable[[Path], None], made_from: Mapping[str, Any] | None) -> Path:
    """A report's folder by way of a draft beside it, which `write` fills; gives the path of report.html."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error}); expected a folder for the report") from error
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        draft = Path(temporary) / "report"
        draft.mkdir()
        write(draft)
        if made_from is not None:
            remember(draft, made_from)
        _move(draft, folder)
    return folder / PAGE


def write_page(folder: Path, drawn: "Mapping[str, Panel]", html: str, markdown: str) -> None:
    """Write report.html, report.md, and the pictures in figures/; the same bytes on every machine."""
    (folder / "figures").mkdir()
    for panel in drawn.values():
        if panel.png is not None:
            (folder / "figures" / f"{panel.name}.png").write_bytes(panel.png)
    for name, text in (("report.md", markdown), (PAGE, html)):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


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


MADE_FROM = ".made-from.json"
PACKAGE = Path(__file__).parents[1]


def is_made_from(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a folder has the report that these facts and this version would give, and every file of it unchanged.

    Args:
        folder: The report's.
        facts: What was known of the study, as JSON values.
    """
    try:
        note = json.loads((folder / MADE_FROM).read_text(encoding="utf-8"))
        return bool(note == _note(folder, facts, note["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remember(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write down beside the files of a whole report what they were made from."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    text = json.dumps(_note(folder, facts, names), indent=1, sort_keys=True)
    (folder / MADE_FROM).write_text(text + "\n", encoding="utf-8", newline="\n")


def _note(folder: Path, facts: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    # Digests only: a report may be handed on, and the facts name paths of this machine.
    made_from = [version("vae-study"), _code(), json.dumps(facts, sort_keys=True)]
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return {"made_from": hashlib.sha256(json.dumps(made_from).encode()).hexdigest(), "files": files}


@cache
def _code() -> str:
    """A digest of the package: an editable installation changes without its version."""
    digest = hashlib.sha256()
    for path in sorted(path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
