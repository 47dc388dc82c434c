"""Odd studies are told in clear words, without an exception or a warning."""

import pickle
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib import style
from matplotlib.figure import Figure

from pipeline.report import figures, write_report
from pipeline.report.figures import Panel
from pipeline.report.figures.style import STYLE
from pipeline.report.tables import Missing
from pipeline.report.words import Words

from .odd import NASTY, ODD, odd
from .page import page_of

DRAWN: set[tuple[str, bytes]] = set()


def panel(name: str, table: Any, draw: Callable[[Any], Figure], say: Callable[[Any], Words]) -> Panel:
    """A panel whose figure is drawn but for its pixels, and once only where many studies have the same."""
    if isinstance(table, Missing):
        return Panel(name=name, png=None, words=Words(), missing=table.why)
    if (name, pickle.dumps(table)) not in DRAWN:
        DRAWN.add((name, pickle.dumps(table)))
        with style.context(["default", STYLE]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            draw(table).draw_without_rendering()
    return Panel(name=name, png=b"PNG", words=say(table))


@pytest.fixture(scope="module")
def odd_report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an odd study's report, written once and without a warning."""

    @cache
    def written(name: str) -> Path:
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("error")
            patch.setattr(figures, "_panel", panel)
            return write_report(odd(name), tmp_path_factory.mktemp("odd") / "report").parent

    return written


@pytest.mark.parametrize("name", ODD)
def test_odd_studies_are_told_in_clear_words(name: str, odd_report: Callable[[str], Path]) -> None:
    folder = odd_report(name)
    text = page_of(folder).text
    assert ODD[name][1] in text
    assert not re.search(r"\bnan\b|\bNone\b|\bNaT\b|<NA>|Undefined", text.split("How to get it again")[0])
    assert (folder / "report.md").stat().st_size > 0
    pd.read_parquet(folder / "trials.parquet")


@pytest.mark.parametrize("name", ["point code", "one objective and no labels"])
def test_nothing_is_said_of_an_elbo_that_there_is_not(name: str, odd_report: Callable[[str], Path]) -> None:
    text = page_of(odd_report(name)).text.split("How to get it again")[0]
    assert "ELBO" not in text
    assert "posterior collapsed" not in text
    assert "has no prior" in text
    assert "A point code has no rate" in text


def test_further_seeds_are_told_only_where_there_are_any(report: Path, odd_report: Callable[[str], Path]) -> None:
    with_seeds = page_of(report).text
    without = page_of(odd_report("infinite"))
    assert "trained once" not in with_seeds
    assert "Over 4 seeds the chosen trial’s test AUROC of residual Mahalanobis distance is" in with_seeds
    assert "trained once" in without.text
    assert "seeds" not in without.text
    assert not [a for a in without.all("a") if a["href"] == "#confirmation"]


def test_names_are_escaped_everywhere(odd_report: Callable[[str], Path]) -> None:
    folder = odd_report("nasty names")
    page = page_of(folder)
    assert [script.get("id") for script in page.all("script")] == ["live", "library", None]
    assert NASTY in page.text
    outside_code = re.sub(r"(`{3,}).*?\n\1", "", (folder / "report.md").read_text(encoding="utf-8"), flags=re.S)
    assert "<script" not in outside_code
