"""The written report: whole, the same each time, loading nothing, escaped, and clear about odd studies."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.report import summary, write_report
from pipeline.tracking.record import StudyRecord

from .families import confirmed, discrete, looked_into, mixed_families, without_rate
from .studies import SPEC, study

PLAIN = {"plane", "hypervolume", "auroc", "training", "scores", "curves", "reconstructions", "samples"}
OF_CODE = {"latent_map", "latent_use", "traversals", "interpolations"}
FIGURES = PLAIN | OF_CODE | {"confirmation"}
NASTY = 'λ <script>alert(1)</script> | `x` "q" & $\\frac{1}$ 数'


class Page(HTMLParser):
    """What a page holds: its elements, whether they are closed in order, and its text."""

    VOID = ("meta", "img", "br", "wbr", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path) -> Page:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


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


def test_the_same_record_gives_the_same_bytes(report: Path, digits: StudyRecord, tmp_path: Path) -> None:
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


def test_a_report_that_fails_leaves_the_old_one(report: Path, digits: StudyRecord, tmp_path: Path) -> None:
    folder = write_report(odd("one trial"), tmp_path / "report").parent
    before = bytes_of(folder)
    with pytest.raises(TypeError):
        write_report(replace(digits, spec={**SPEC, "study": {("a", "tuple"): 1}}), folder)
    assert bytes_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_the_page_loads_nothing(report: Path) -> None:
    page = page_of(report)
    sources = [
        a.get(key) for _, a in page.elements for key in ("src", "srcset", "data", "poster", "background") if key in a
    ]
    assert len(sources) == len(FIGURES)
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    assert not {"link", "script", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    style = (report / "report.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_is_readable_without_eyes_and_links_lead_somewhere(report: Path) -> None:
    page = page_of(report)
    assert all(image.get("alt") for image in page.all("img"))
    assert {head.get("scope") for head in page.all("th")} == {"col", "row"}
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [str(a["href"])[1:] for a in page.all("a")] + [str(a["aria-labelledby"]) for a in page.all("section")]
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


def changed(**changes: Any) -> StudyRecord:
    return replace(study(trials=10, epochs=6), **changes)


def in_state(state: str, failure: str | None = None) -> StudyRecord:
    record = study(trials=10, epochs=6)
    trials = record.trials.assign(state=state, failure=failure)
    return replace(record, trials=trials, champion=None)


def collapsed() -> StudyRecord:
    record = study(trials=10, epochs=6)
    return replace(record, trials=record.trials.assign(**{"val/kl": 0.0, "val/active_units": 0.0, "val/auroc": 0.5}))


def without_metrics() -> StudyRecord:
    record = study(trials=10, epochs=6)
    lost = ["val/kl", "val/active_units", "val/auroc", "time/epoch_seconds", "train/kl_weight"]
    return replace(record, trials=record.trials.drop(columns=lost), history=record.history.drop(columns=lost))


def nasty() -> StudyRecord:
    record = study(trials=10, epochs=6)
    assert record.champion is not None
    inputs = record.champion.inputs_ND[:, :3]
    champion = replace(record.champion, inputs_ND=inputs, reconstructions_ND=inputs, samples_MD=inputs)
    champion = replace(champion, scores=champion.scores.rename(columns={"elbo": NASTY}), rule=NASTY)
    trials = record.trials.assign(**{"free_bits.kind": NASTY, "failure": NASTY, "state": "failed", NASTY: 1.0})
    trials.loc[:4, "state"] = "finished"
    spec = {**SPEC, "study": NASTY, "search": {**SPEC["search"], NASTY: {"low": 1, "high": 2}}}
    data = {**record.data, "source": NASTY, "image_shape": None, "feature_names": [NASTY] * 3}
    return replace(
        record, name=NASTY, spec=spec, data=data, trials=trials, champion=champion, environment={NASTY: NASTY}
    )


def mixed() -> StudyRecord:
    record = study(trials=4, epochs=3)
    return replace(record, trials=record.trials.assign(a=[[1, 2], "x", None, 3], b=[True, "auto", 2.5, None]))


def constant() -> StudyRecord:
    record = study(trials=6, epochs=3)
    assert record.champion is not None
    flat = np.zeros_like(record.champion.inputs_ND)
    scores = record.champion.scores.assign(elbo=1.0)
    champion = replace(record.champion, inputs_ND=flat, reconstructions_ND=flat, samples_MD=flat, scores=scores)
    same = {"val/reconstruction": 3.0, "val/kl": 2.0, "beta": 1.0, "latent_dim": 4}
    return replace(record, trials=record.trials.assign(**same), champion=champion)


def bare() -> StudyRecord:
    record = study(trials=3, epochs=3)
    assert record.champion is not None
    none = np.empty((0, 0), np.float32)
    champion = replace(record.champion, scores=record.champion.scores.head(0), inputs_ND=none, reconstructions_ND=none,
                       input_is_anomaly_N=np.empty(0, bool), samples_MD=none)  # fmt: skip
    return replace(record, champion=champion, spec={}, data={}, environment={}, reference={})


def empty() -> StudyRecord:
    return changed(trials=pd.DataFrame(), history=pd.DataFrame(), champion=None)


def infinite() -> StudyRecord:
    record = study(trials=10, epochs=6)
    trials = record.trials.copy()
    trials.loc[trials.index[:5], ["val/reconstruction", "val/elbo", "val/auroc"]] = [np.inf, -np.inf, np.nan]
    return replace(record, trials=trials)


def one_class(anomaly: bool) -> StudyRecord:
    record = study(trials=6, epochs=3)
    assert record.champion is not None
    scores = record.champion.scores.assign(anomaly=anomaly)
    return replace(record, champion=replace(record.champion, scores=scores))


def cut() -> StudyRecord:
    """Arrays of one row less than there are test examples, and walks that are no images of this size."""
    record = looked_into(study(trials=4, epochs=3))
    assert record.champion is not None
    assert record.champion.latent_map_N2 is not None
    assert record.champion.traversals_LSD is not None
    walks = record.champion.traversals_LSD[:, :, :5]
    place = record.champion.latent_map_N2[1:]
    champion = replace(record.champion, latent_map_N2=place, traversals_LSD=walks, interpolations_PSD=walks[0],
                       latent_variance_Z=np.ones(3))  # fmt: skip
    return replace(record, champion=champion)


def unknown() -> StudyRecord:
    record = looked_into(study(trials=4, epochs=3))
    assert record.champion is not None
    lost = {"latent_map_N2": np.full((411, 2), np.nan), "kl_per_dimension_R": np.full(8, np.nan),
            "traversals_LSD": np.full((2, 3, 64), np.nan, np.float32)}  # fmt: skip
    trials = record.trials.assign(**{"test/probe_accuracy": np.nan})
    return replace(record, trials=trials, champion=replace(record.champion, **lost))


def lost_seeds(all_of_them: bool) -> StudyRecord:
    """The chosen trial has lost one of its seeds, or all seeds of all trials have no values."""
    record = confirmed(study(trials=10, epochs=6))
    rows = record.confirmations.copy()
    metrics = [name for name in rows if "/" in str(name)]
    rows.loc[rows.index if all_of_them else rows.index[:1], metrics] = np.nan
    return replace(record, confirmations=rows)


ODD: dict[str, tuple[Callable[[], StudyRecord], str]] = {
    "one trial": (lambda: study(trials=1, epochs=4), "1 of 1 finished trial is on the frontier"),
    "none finished": (lambda: in_state("stopped"), "No trial is on the frontier yet"),
    "all failed": (lambda: in_state("failed", "diverged"), "10 of 10 trials failed"),
    "running": (lambda: in_state("running"), "10 trials still running"),
    "no labels": (lambda: study(trials=10, epochs=6, labels=False), "labelled anomalies are needed"),
    "collapsed": (collapsed, "collapsed (no active unit"),
    "missing metrics": (without_metrics, "No trial has measured val/reconstruction and val/kl"),
    "nasty names": (nasty, "λ <script>alert(1)</script>"),
    "mixed parameters": (mixed, "finished"),
    "constant": (constant, "finished"),
    "bare": (bare, "no reference point"),
    "empty": (empty, "No trial has begun yet."),
    "infinite": (infinite, "finished"),
    "point code": (lambda: without_rate(trials=10, epochs=6), "of an autoencoder on digits"),
    "one objective": (lambda: without_rate(("val/squared_error",), trials=10, epochs=6), "has one objective"),
    "one objective and no labels": (
        lambda: without_rate(("val/reconstruction",), trials=10, epochs=6, labels=False),
        "the chosen trial’s validation reconstruction is",
    ),
    "discrete": (lambda: discrete(trials=10, epochs=6), "37.2 of 64 entries"),
    "families": (lambda: mixed_families(trials=10, epochs=6), "2 model families (a variational autoencoder and an"),
    "one latent dimension": (lambda: looked_into(study(trials=4, epochs=3), dimensions=1), "1 of 1 is active"),
    "one label": (lambda: looked_into(study(trials=4, epochs=3), labels=1), "Where the examples lie"),
    "arrays of other sizes": (cut, "stored no map of its code"),
    "nothing finite in the code": (unknown, "stored no KL of its latent dimensions"),
    "one further seed": (lambda: confirmed(study(trials=10, epochs=6), top=2, seeds=1), "Over 2 seeds"),
    "seeds without values": (lambda: lost_seeds(all_of_them=True), "trained once"),
    "seeds with a value lost": (lambda: lost_seeds(all_of_them=False), "Over 3 seeds"),
    "only normals": (lambda: one_class(False), "No anomaly is labelled in the test split."),
    "only anomalies": (lambda: one_class(True), "scores of both normal and anomalous test examples"),
}


def odd(name: str) -> StudyRecord:
    return ODD[name][0]()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD)
def test_odd_studies_are_told_in_clear_words(name: str, tmp_path: Path) -> None:
    folder = write_report(odd(name), tmp_path / "report").parent
    text = page_of(folder).text
    assert ODD[name][1] in text
    assert not re.search(r"\bnan\b|\bNone\b|\bNaT\b|<NA>|Undefined", text.split("How to get it again")[0])
    assert (folder / "report.md").stat().st_size > 0
    pd.read_parquet(folder / "trials.parquet")


@pytest.mark.parametrize("name", ["point code", "one objective", "one objective and no labels"])
def test_nothing_is_said_of_an_elbo_that_there_is_not(name: str, tmp_path: Path) -> None:
    text = page_of(write_report(odd(name), tmp_path / "report").parent).text.split("How to get it again")[0]
    assert "ELBO" not in text
    assert "posterior collapsed" not in text
    assert "has no prior" in text
    assert "A point code has no rate" in text


def test_further_seeds_are_told_only_where_there_are_any(report: Path, tmp_path: Path) -> None:
    with_seeds = page_of(report).text
    without = page_of(write_report(study(trials=10, epochs=6), tmp_path / "report").parent)
    assert "trained once" not in with_seeds
    assert "Over 4 seeds the chosen trial’s test AUROC is" in with_seeds
    assert "trained once" in without.text
    assert "seeds" not in without.text
    assert not [a for a in without.all("a") if a["href"] == "#confirmation"]


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    folder = write_report(odd("nasty names"), tmp_path / "report").parent
    page = page_of(folder)
    assert not page.all("script")
    assert NASTY in page.text
    outside_code = re.sub(r"(`{3,}).*?\n\1", "", (folder / "report.md").read_text(encoding="utf-8"), flags=re.S)
    assert "<script" not in outside_code


def test_a_table_s_rows_are_drawn_and_its_samples_are_not(table: StudyRecord, tmp_path: Path) -> None:
    folder = write_report(table, tmp_path / "report").parent
    assert {path.stem for path in (folder / "figures").iterdir()} == PLAIN - {"samples"}
    assert "rows of a table and not images" in page_of(folder).text


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (8, 8, 1), (3, 4, 4), (4, 4, 3)])
def test_images_of_any_layout_are_drawn(shape: tuple[int, ...], tmp_path: Path) -> None:
    record = looked_into(study(trials=3, epochs=2))
    assert record.champion is not None
    size = int(np.prod(shape))
    names = ("inputs_ND", "reconstructions_ND", "samples_MD", "traversals_LSD", "interpolations_PSD")
    flat = {key: getattr(record.champion, key)[..., :size] for key in names}
    record = replace(record, champion=replace(record.champion, **flat), data={**record.data, "image_shape": shape})
    folder = write_report(record, tmp_path / "report").parent
    for name in ("reconstructions", "samples", "traversals", "interpolations"):
        assert (folder / "figures" / f"{name}.png").exists()


def test_the_report_imports_no_engine() -> None:
    code = "import sys, pipeline.report; print(sorted({'ray', 'torch', 'mlflow', 'optuna'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
