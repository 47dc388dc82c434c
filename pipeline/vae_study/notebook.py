"""A study in a notebook: a card in place of a page of arrays, the report's figures, and progress that is redrawn."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from vae_study.errors import UserError
from vae_study.metrics import DEFAULT_SCORE
from vae_study.paths import HOME, Home, source_of
from vae_study.tracking.reader import read_study
from vae_study.tracking.record import ChampionRecord, StudyRecord
from vae_study.tracking.schema import trial_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture

    from vae_study.report.figure import Figure

# Of a browser, which shows a picture of twice as many dots as sharp as it can.
DOTS_PER_INCH = 96
CARD = "border:1px solid #c3c9d0;border-radius:6px;padding:10px 14px;display:inline-block;max-width:46em"
NAME = "padding:1px 14px 1px 0;text-align:left;opacity:.7"
VALUE = "padding:1px 0;text-align:left"


class Champion(ChampionRecord):
    """The chosen model of a study, with a short text in place of its arrays."""

    def __repr__(self) -> str:
        return f"<{trial_name(self.trial)}, chosen by {self.rule}, scored by {self.score or 'no score'}>"

    def _repr_html_(self) -> str:
        """A card: how it was chosen, and what it detects on the test split."""
        from vae_study.report.frames import numbers
        from vae_study.report.tables import measured, stored_scores

        test, stored = self.scores[self.scores["split"].eq("test")], stored_scores(self)
        score = next((name for name in (self.score, DEFAULT_SCORE, *stored) if name in stored), "")
        scored = pd.DataFrame({"anomaly": test["anomaly"].eq(True), "score": numbers(test, score)})
        rows = {"chosen by": self.rule, "scored by": score or "–", "test rows": f"{len(test):,}"}
        for name, metric in (("test AUROC", "auroc"), ("average precision", "average_precision")):
            area = measured(metric, scored)
            rows[name] = f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]" if math.isfinite(area.value) else "–"
        return card(trial_name(self.trial), rows)


@dataclass(frozen=True, kw_only=True, repr=False)
class Study(StudyRecord):
    """A study as a notebook shows it. It is a `StudyRecord`: `trials` and `history` are pandas data frames."""

    @classmethod
    def of(cls, record: StudyRecord) -> Study:
        """The same study."""
        found = {**vars(record)}
        if record.champion is not None:
            found["champion"] = Champion(**vars(record.champion))
        return cls(**found)

    def __repr__(self) -> str:
        return f"<study {self.name!r}: {self._states or 'no trials yet'}>"

    @property
    def _states(self) -> str:
        counts = self.trials["state"].value_counts()
        return ", ".join(f"{count} {state}" for state, count in counts.items())

    def _repr_html_(self) -> str:
        """A card with the key numbers of the report."""
        from vae_study.report.overview import key_numbers
        from vae_study.report.tables import StudyTables

        rows = {"trials": self._states or "none yet"} if self.trials.empty else {}
        for one in key_numbers(StudyTables(self)):
            rows[one.name] = f"{one.value} {one.remark}".strip()
        if self.champion is not None:
            rows["Chosen model"] = f"{trial_name(self.champion.trial)}, by {self.champion.rule}"
        return card(f"study {self.name}", rows)

    def plot_frontier(self) -> Picture:
        """The trials in the plane of reconstruction and KL, with the frontier. Raise UserError if there is none yet."""
        from vae_study.report.sections.trade_off import TRADE_OFF

        return self._drawn(TRADE_OFF)

    def plot_auroc(self) -> Picture:
        """The ROC and precision-recall curves of the chosen model. Raise UserError if there are none."""
        from vae_study.report.sections.detection import CURVES

        return self._drawn(CURVES)

    def plot_history(self) -> Picture:
        """The training of the trials, epoch by epoch. Raise UserError if none has trained."""
        from vae_study.report.sections.progress import TRAINING

        return self._drawn(TRAINING)

    def _drawn(self, figure: Figure[Any]) -> Picture:
        from vae_study.report.frames import Missing
        from vae_study.report.style import drawn, png
        from vae_study.report.tables import StudyTables

        numbers = figure.numbers(StudyTables(self))
        if isinstance(numbers, Missing):
            raise UserError(f"{self.name}: {numbers.why}")
        picture = drawn(lambda: figure.draw(numbers))
        # So a notebook shows it, whether or not it has imported pyplot.
        width, height = (round(DOTS_PER_INCH * inches) for inches in picture.get_size_inches())
        vars(picture)["_repr_png_"] = lambda: (png(lambda: picture), {"width": width, "height": height})
        return picture


def compare(*studies: str | StudyRecord, home: Home = HOME, tracking_uri: str | None = None) -> pd.DataFrame:
    """The main numbers of studies of the same data, one row for each.

    Args:
        studies: Two or more, or their names.
        home, tracking_uri: Where those with a name are, as in `run_study`.

    Raises:
        UserError: There is no such study, or they are of different data or objectives.
    """
    from vae_study.report.comparison import compare as compared
    from vae_study.report.comparison_page import study_frame

    records = (read_study(source_of(home, tracking_uri), one) if isinstance(one, str) else one for one in studies)
    return study_frame(compared([*records]))


def card(title: str, rows: dict[str, str]) -> str:
    """A small table in HTML, with the colours of the notebook."""
    lines = (
        f'<tr><th style="{NAME}">{escape(name)}</th><td style="{VALUE}">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f'<div style="{CARD}"><b>{escape(title)}</b><table style="border:0">{"".join(lines)}</table></div>'


class CellConsole(Console):
    """A console whose last line stands in the output of a notebook's cell, and is replaced by the next."""

    seconds_between_lines = 1.0

    def __init__(self) -> None:
        # Rich itself would add an output to the cell for each line.
        super().__init__(file=io.StringIO(), width=200, force_jupyter=False, force_terminal=False)
        self._handle: Any = None

    def print(self, *objects: Any, **settings: Any) -> None:
        """Show text in the cell."""
        shown: Any = import_module("IPython.display")
        html = shown.HTML(f"<pre>{escape(' '.join(map(str, objects)))}</pre>")
        if self._handle is None:
            self._handle = shown.display(html, display_id=True)
        else:
            self._handle.update(html)


def quiet_console() -> Console:
    """Where a study shows its progress unless a caller says so: in a notebook its cell, else nowhere."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python is not None else None
    is_notebook = shell is not None and hasattr(shell, "kernel")
    return CellConsole() if is_notebook else Console(file=io.StringIO(), force_jupyter=False)
