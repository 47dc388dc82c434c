"""The written report: whole, the same each time, loading nothing, escaped, and clear about odd studies."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from vae_study.errors import UserError
from vae_study.report import figure, summary, write_report
from vae_study.report.figure import Figure
from vae_study.report.frames import Missing
from vae_study.report.sections.examples import (
    draw_reconstructions,
    draw_samples,
    draw_strips,
    reconstructions,
    samples,
    traversals,
)
from vae_study.report.style import png
from vae_study.tracking.record import StudyRecord

from .families import looked_into
from .odd import odd
from .page import bytes_of, page_of
from .studies import CONFIG, study

PLAIN = {
    "plane", "hypervolume", "frontier_auroc", "side_by_side", "importances", "parallel", "slices", "contour",
    "training", "scores", "curves", "reconstructions", "samples",
}  # fmt: skip
OF_CODE = {"latent_map", "latent_use", "traversals", "interpolations"}
FIGURES = PLAIN | OF_CODE | {"confirmation", "highest_rows"}


def test_everything_promised_is_written(report: Path, digits: StudyRecord) -> None:
    assert set(bytes_of(report)) == {
        "report.html", "report.md", "trials.parquet", "history.parquet", "frontier.csv",
        *(f"figures/{name}.png" for name in FIGURES),
    }  # fmt: skip
    trials, history = (pd.read_parquet(report / f"{name}.parquet") for name in ("trials", "history"))
    assert list(trials.columns[:5]) == ["trial", "state", "failure", "run_id", "beta"]
    assert len(trials) == len(digits.trials)
    assert list(history.columns[:2]) == ["trial", "epoch"]
    assert len(history) == len(digits.history)
    frontier = pd.read_csv(report / "frontier.csv")
    assert frontier.columns[0] == "trial"
    assert len(frontier) == summary(digits).frontier_size


def test_the_same_record_gives_the_same_bytes(
    report: Path,
    digits: StudyRecord,
    picture: Callable[[Figure[Any], Any], bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(figure, "picture", picture)
    again = write_report(digits, tmp_path / "elsewhere").parent
    assert bytes_of(again) == bytes_of(report)


def test_writing_again_removes_old_figures_only(report: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "stale.png").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    write_report(odd("running"), folder)
    assert not (folder / "figures" / "stale.png").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    record = odd("all failed")
    folder = write_report(record, tmp_path / "report").parent
    before = bytes_of(folder)
    with pytest.raises(TypeError):
        write_report(replace(record, config={**CONFIG, "study": {("a", "tuple"): 1}}), folder)
    assert bytes_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_report_s_folder_that_cannot_be_one_is_refused(digits: StudyRecord, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "report", Path("/dev/null")):
        with pytest.raises(UserError, match=r"cannot be written to .*; expected a folder for the report"):
            write_report(digits, folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_page_loads_nothing(report: Path) -> None:
    page = page_of(report)
    sources = [
        a.get(key) for _, a in page.elements for key in ("src", "srcset", "data", "poster", "background") if key in a
    ]
    assert len(sources) == len(FIGURES)
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    assert [script.get("id") for script in page.all("script")] == ["figures", "library", None]
    style = (report / "report.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_is_readable_without_eyes_and_links_lead_somewhere(report: Path) -> None:
    page = page_of(report)
    assert all(image.get("alt") for image in page.all("img"))
    assert {head.get("scope") for head in page.all("th")} == {"col", "row"}
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [str(a["href"]) for a in page.all("a")]
    tables = [unquote(link) for link in links if link.startswith("data:text/csv;charset=utf-8,")]
    assert len(tables) == len(page.all("table"))
    assert all(len({len(row) for row in csv.reader(table.split(",", 1)[1].splitlines())}) == 1 for table in tables)
    targets = [link[1:] for link in links if link.startswith("#")]
    targets += [str(a["aria-labelledby"]) for a in page.all("section")]
    assert set(targets) <= set(ids)


def test_the_page_says_the_numbers(report: Path, digits: StudyRecord) -> None:
    text, found = page_of(report).text, summary(digits)
    assert f"Trial {found.champion_trial} " in text
    assert f"{found.test_auroc.value:.3f}" in text
    assert f"{found.best_elbo_nats:.2f}".replace("-", "−") in text
    assert f"{found.hypervolume:.2f}" in text
    assert "vae-study report digits" in text
    assert str(digits.data["sha256"]) in text


def test_nothing_of_this_machine_is_in_the_report(report: Path, digits: StudyRecord) -> None:
    together = b"".join(bytes_of(report).values())
    for secret in (digits.tracking_uri, str(report.parent), "/home/someone", "site-packages"):
        assert secret.encode() not in together


def test_markdown_links_every_figure_and_tables_are_whole(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert sorted(linked) == sorted(f"figures/{path.name}" for path in (report / "figures").iterdir())
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
        assert set(block.splitlines()[1]) <= set("|- ")


def test_a_table_s_rows_are_drawn_and_its_samples_are_not(table: StudyRecord, tmp_path: Path) -> None:
    folder = write_report(table, tmp_path / "report").parent
    assert {path.stem for path in (folder / "figures").iterdir()} == PLAIN - {"samples"}
    text = page_of(folder).text
    assert "rows of a table and not images" in text
    assert all(note in text.rsplit("Reproduce", 1)[1] for note in table.data["notes"])


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (8, 8, 1), (3, 4, 4), (4, 4, 3)])
def test_images_of_any_layout_are_drawn(shape: tuple[int, ...]) -> None:
    record = looked_into(study(trials=3, epochs=2))
    assert record.champion is not None
    size = int(np.prod(shape))
    names = ("inputs_ND", "reconstructions_ND", "samples_MD", "traversals_LSD", "interpolations_PSD")
    flat = {key: getattr(record.champion, key)[..., :size] for key in names}
    record = replace(record, champion=replace(record.champion, **flat), data={**record.data, "image_shape": shape})
    drawn = ((reconstructions, draw_reconstructions), (samples, draw_samples), (traversals, draw_strips))
    for make, draw in drawn:
        table = make(record)
        assert not isinstance(table, Missing)
        assert png(partial(draw, table)).startswith(b"\x89PNG")


def test_the_report_imports_no_engine() -> None:
    code = "import sys, vae_study.report; print(sorted({'ray', 'torch', 'mlflow', 'optuna'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
