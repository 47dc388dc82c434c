"""The page in a real browser, opened from disk with no network: figures with scripts, and pictures without."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageStat
from vae_study.report import write_report
from vae_study.report.tables import score_of
from vae_study.tracking.record import StudyRecord

from tests.needs import lacks

from .browser import CHROMIUM, Browser
from .eventful import eventful
from .families import looked_into
from .page import page_of
from .studies import study

INTERACTIVE = {
    "plane", "hypervolume", "frontier_auroc", "importances", "parallel", "slices", "contour", "training", "scores",
}  # fmt: skip
SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True)}
SERVER = "http://mlflow.example:5000"


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    """A study on a server, some of its trials stopped, failed or beyond a constraint."""
    made = eventful(looked_into(study(trials=40, epochs=8)), constraints=())
    return replace(made, tracking_uri=SERVER.replace("//", "//me:a-password@"))


@pytest.fixture(scope="module")
def written(record: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(record, tmp_path_factory.mktemp("page") / "report")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        lacks("chromium is not installed (Debian: apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def drawn(browser: Browser, page: Path, *names: str) -> None:
    """Opens the page and looks at interactive figures, by default at all, as each is drawn when it comes near."""
    browser.open(page)
    for name in names or sorted(INTERACTIVE):
        show(browser, name)
        browser.wait(f"document.querySelector('[data-figure={name}].is-interactive .interactive .main-svg') !== null")


def show(browser: Browser, name: str) -> None:
    """Unfolds what holds a figure, and scrolls to it."""
    browser.evaluate(
        f"(() => {{ const one = document.querySelector('[data-figure={name}]'), folded = one.closest('details');"
        "if (folded) folded.open = true; one.scrollIntoView(); })()"
    )


def place(browser: Browser, name: str, trial: int) -> tuple[float, float]:
    """Where in the window an interactive figure draws a trial."""
    found = browser.evaluate(
        f"""(() => {{
          const figure = document.querySelector('[data-figure={name}] .interactive');
          const told = JSON.parse(figures.textContent).trials;
          const row = told.number.indexOf({trial}), box = figure.getBoundingClientRect();
          const trace = figure._fullData.find((one) => one.mode === 'markers' && (one.customdata || []).includes(row));
          const i = trace.customdata.indexOf(row), {{ xaxis, yaxis }} = figure._fullLayout;
          return JSON.stringify([box.left + xaxis._offset + xaxis.d2p(trace.x[i]),
                                 box.top + yaxis._offset + yaxis.d2p(trace.y[i])]);
        }})()"""
    )
    x, y = json.loads(found)
    return float(x), float(y)


def chosen(record: StudyRecord) -> int:
    assert record.champion is not None
    return record.champion.trial


def picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_every_live_figure_is_drawn_without_a_network_and_without_a_complaint(browser: Browser, written: Path) -> None:
    browser.look(1280, 900)
    drawn(browser, written)
    assert browser.complaints == []
    assert {address.split(":")[0] for address in browser.requests} <= {"file", "data", "blob"}
    assert browser.evaluate("document.querySelectorAll('[data-figure]').length") == len(INTERACTIVE)
    labels = "[...document.querySelectorAll('[data-figure] .interactive')].map((one) => one.ariaLabel)"
    assert browser.evaluate(labels) == browser.evaluate(
        "[...document.querySelectorAll('[data-figure] img')].map((i) => i.alt)"
    )


def test_hovering_tells_the_configuration_and_a_click_opens_the_run(
    browser: Browser, written: Path, record: StudyRecord
) -> None:
    browser.look(1280, 900)
    drawn(browser, written, "plane")
    trial = chosen(record)
    browser.point(*place(browser, "plane", trial))
    browser.wait("document.querySelector('[data-figure=plane] .hovertext') !== null")
    told = browser.evaluate("document.querySelector('[data-figure=plane] .hoverlayer').textContent")
    row = record.trials.set_index("trial").loc[trial]
    assert f"trial {trial}" in told
    assert f"latent size: {row['latent_dim']}" in told
    assert f"free_bits.kind: {row['free_bits.kind']}" in told
    assert f"{row['beta']:.4g}" in told
    browser.point(*place(browser, "plane", trial), click=True)
    wanted = f"{SERVER}/#/experiments/{record.experiment_id}/runs/{row['run_id']}?workflowType=machine_learning"
    browser.until(lambda: wanted in browser.opened, "the run is opened")
    links = {link["href"] for link in page_of(written.parent).all("a")}
    assert {
        f"{SERVER}/#/experiments/{record.experiment_id}/runs/{run}?workflowType=machine_learning"
        for run in record.trials["run_id"]
    } <= links
    assert "a-password" not in written.read_text(encoding="utf-8")


def test_the_reader_chooses_the_colour(browser: Browser, written: Path) -> None:
    browser.look(1280, 900)
    drawn(browser, written, "plane")
    choices = "[...document.querySelectorAll('[data-figure=plane] option')].map((one) => one.text)"
    assert browser.evaluate(choices) == ["validation AUROC", "beta", "latent size", "validation active units"]
    fills = "[...document.querySelectorAll('[data-figure=plane] .point')].map((one) => one.style.fill).join()"
    seen = set()
    for choice in range(4):
        browser.evaluate(
            f"(() => {{ const one = document.querySelector('[data-figure=plane] select'); one.value = {choice};"
            "one.dispatchEvent(new Event('change')); })()"
        )
        browser.until(lambda: browser.evaluate(fills) not in seen, "other colours")
        seen.add(browser.evaluate(fills))
    assert len(seen) == 4


def test_dragging_along_an_axis_picks_the_lines_that_cross_it(
    browser: Browser, written: Path, record: StudyRecord
) -> None:
    browser.look(1280, 900)
    drawn(browser, written, "parallel")
    box = browser.evaluate(
        "(() => { const one = document.querySelector('[data-figure=parallel] .interactive');"
        "const { xaxis, yaxis } = one._fullLayout, box = one.getBoundingClientRect();"
        "return JSON.stringify([box.left + xaxis._offset + xaxis.d2p(1),"
        "box.top + yaxis._offset + yaxis.d2p(1.03), box.top + yaxis._offset + yaxis.d2p(0.54)]); })()"
    )
    x, top, low = json.loads(box)
    browser.drag((x - 12, top), (x + 12, low))
    browser.wait("document.querySelector('[data-figure=parallel] .interactive').data.at(-1).x.length > 0")
    lines = browser.evaluate(
        "document.querySelector('[data-figure=parallel] .interactive').data.at(-1).y.filter((y) => y === null).length"
    )
    finished = record.trials[record.trials["state"] == "finished"]
    latent = np.log(finished["latent_dim"].to_numpy(float))
    assert lines == int((latent > latent.min() + 0.54 * np.ptp(latent)).sum())


def test_without_scripts_and_in_print_the_pictures_are_shown(browser: Browser, written: Path) -> None:
    unfold = "document.querySelectorAll('details').forEach((one) => one.open = true)"
    shown = "[...document.querySelectorAll('figure img')].filter((one) => one.offsetHeight > 50).length"
    live = "[...document.querySelectorAll('.interactive')].filter((one) => one.offsetHeight > 0).length"
    pictures = len(page_of(written.parent).all("img"))
    browser.look(1280, 900)
    drawn(browser, written)
    browser.evaluate(unfold)
    assert browser.evaluate(live) == len(INTERACTIVE)
    assert browser.evaluate(shown) == pictures - len(INTERACTIVE)
    browser.look(800, 900, media="print")
    assert (browser.evaluate(shown), browser.evaluate(live)) == (pictures, 0)
    browser.look(1280, 900)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(written)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.evaluate(unfold)
    assert (browser.evaluate(shown), browser.evaluate(live)) == (pictures, 0)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_blank_and_nothing_overflows_sideways(
    browser: Browser, written: Path, size: str, dark: bool
) -> None:
    width, height, touch = SIZES[size]
    browser.look(width, height, dark=dark, touch=touch)
    drawn(browser, written)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("plane", "parallel", "contour"):
        show(browser, name)
        seen = picture(browser.screenshot())
        assert seen.size == (width, height)
        assert (ImageStat.Stat(seen.convert("L")).median[0] < 100) == dark
        assert len(seen.getcolors(width * height) or ()) > 200
    assert browser.complaints == []


def test_moving_the_threshold_tells_what_it_flags(browser: Browser, written: Path, record: StudyRecord) -> None:
    browser.look(1280, 900)
    drawn(browser, written, "scores")
    champion = record.champion
    assert champion is not None
    test = champion.scores[champion.scores["split"] == "test"]
    score_N, is_anomaly_N = test[str(score_of(record, champion))].to_numpy(), test["anomaly"].to_numpy(bool)
    figure = "document.querySelector('[data-figure=scores]')"
    line = f"{figure}.querySelector('.interactive').layout.shapes[0].x0"
    seen = set()
    for place in (0, 40, 90):
        browser.evaluate(
            f"(() => {{ const one = {figure}.querySelector('input[type=range]'); one.value = {place};"
            "one.dispatchEvent(new Event('input')); })()"
        )
        browser.until(lambda: browser.evaluate(line) not in seen, "the line has moved")
        seen.add(threshold := browser.evaluate(line))
        told = browser.evaluate(f"{figure}.querySelector('output').textContent")
        # The line is drawn with five digits, at a row's own score.
        flagged_N = score_N > score_N[np.abs(score_N - threshold).argmin()]
        assert f": {flagged_N.sum()} alarms in {len(test)} test rows" in told
        assert f", {(flagged_N & is_anomaly_N).sum()} of them real" in told
        found = (flagged_N & is_anomaly_N).sum() / is_anomaly_N.sum()
        assert f"finds {100 * found:.1f} % of the anomalies" in told


def test_a_click_on_a_heading_sorts_the_table(browser: Browser, written: Path) -> None:
    browser.look(1280, 900)
    browser.open(written)
    table = "document.querySelector('#trials').closest('details').querySelector('table')"
    column = f"[...{table}.querySelectorAll('thead th')].findIndex((one) => one.textContent.startsWith('beta'))"
    cells = f"[...{table}.tBodies[0].rows].map((one) => parseFloat(one.cells[{column}].textContent))"
    before = browser.evaluate(cells)
    for order in (sorted(before), sorted(before, reverse=True)):
        browser.evaluate(f"{table}.querySelectorAll('thead th button')[{column}].click()")
        assert browser.evaluate(cells) == order
    assert browser.complaints == []


def test_the_page_is_at_most_ten_screens_long(browser: Browser, written: Path) -> None:
    browser.look(1440, 900)
    drawn(browser, written)
    browser.open(written)
    assert browser.evaluate("document.documentElement.scrollHeight") <= 10 * 900


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_summary_is_the_first_page_in_print(browser: Browser, written: Path, dark: bool) -> None:
    browser.look(1280, 900, dark=dark)
    browser.open(written)
    # A4 with the browser's usual margins, in pixels.
    browser.look(718, 1046, media="print")
    assert browser.evaluate("document.querySelector('.summary').getBoundingClientRect().bottom + scrollY") <= 1046
