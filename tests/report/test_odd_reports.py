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
from vae_study.report import figure, write_report
from vae_study.report.figure import Figure
from vae_study.report.style import STYLE

from .odd import NASTY, ODD, odd
from .page import page_of

pytestmark = pytest.mark.thorough
DRAWN: set[tuple[str, bytes]] = set()


def picture(drawn: Figure[Any], numbers: Any) -> bytes:
    """A figure that is drawn but for its pixels, and once only where many studies have the same."""
    if (drawn.name, pickle.dumps(numbers)) not in DRAWN:
        DRAWN.add((drawn.name, pickle.dumps(numbers)))
        with style.context(["default", STYLE]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            drawn.draw(numbers).draw_without_rendering()
    return b"PNG"


@pytest.fixture(scope="module")
def odd_report(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an odd study's report, written once and without a warning."""

    @cache
    def written(name: str) -> Path:
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("error")
            patch.setattr(figure, "picture", picture)
            return write_report(odd(name), tmp_path_factory.mktemp("odd") / "report").parent

    return written


@pytest.mark.parametrize("name", ODD)
def test_odd_studies_are_told_in_clear_words(name: str, odd_report: Callable[[str], Path]) -> None:
    folder = odd_report(name)
    text = page_of(folder).text
    assert ODD[name][1] in text
    assert not re.search(r"\bnan\b|\bNone\b|\bNaT\b|<NA>|Undefined", text.rsplit("Reproduce", 1)[0])
    assert (folder / "report.md").stat().st_size > 0
    pd.read_parquet(folder / "trials.parquet")


@pytest.mark.parametrize("name", ["deterministic code", "one objective and no labels"])
def test_nothing_is_said_of_an_elbo_that_there_is_not(name: str, odd_report: Callable[[str], Path]) -> None:
    text = page_of(odd_report(name)).text.rsplit("Reproduce", 1)[0]
    assert "ELBO" not in text
    assert "posterior collapsed" not in text
    assert "has no prior" in text
    assert "A deterministic code has no rate" in text


def test_further_seeds_are_told_only_where_there_are_any(report: Path, odd_report: Callable[[str], Path]) -> None:
    with_seeds = page_of(report).text
    without = page_of(odd_report("infinite"))
    assert "trained once" not in with_seeds
    assert "Over 4 seeds, the chosen trial’s mean test AUROC of residual Mahalanobis distance is" in with_seeds
    assert "trained once" in without.text
    assert "Over " not in without.text
    assert "Repeatability" not in without.text
    assert not [a for a in without.all("a") if a["href"] == "#confirmation"]


def test_names_are_escaped_everywhere(odd_report: Callable[[str], Path]) -> None:
    folder = odd_report("nasty names")
    page = page_of(folder)
    assert [script.get("id") for script in page.all("script")] == ["figures", "library", None]
    assert NASTY in page.text
    outside_code = re.sub(r"(`{3,}).*?\n\1", "", (folder / "report.md").read_text(encoding="utf-8"), flags=re.S)
    assert "<script" not in outside_code
