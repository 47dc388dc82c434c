"""A study in a notebook: cards, the report's figures, progress in the cell; and the notebook of the docs, executed."""

import copy
from dataclasses import replace

import matplotlib
import nbformat
import pytest
from matplotlib.figure import Figure
from vae_study import compare
from vae_study.errors import UserError
from vae_study.notebook import CellConsole, Study, quiet_console
from vae_study.report import summary
from vae_study.study.progress import Progress

from docs import reference
from tests.report.studies import study

RECORD = study(trials=8, epochs=4)
LONGEST_CARD = 4000


def test_a_card_has_the_key_numbers_and_no_arrays():
    shown, html = Study.of(RECORD), Study.of(RECORD)._repr_html_()
    assert f"{summary(RECORD).test_auroc.value:.3f}" in html
    assert f"study {RECORD.name}" in html
    assert len(html) < LONGEST_CARD
    assert "array(" not in html + repr(shown) + repr(shown.champion)
    assert repr(shown) == "<study 'digits': 5 finished, 3 pruned>"


def test_the_champions_card_says_how_it_was_chosen_and_what_it_detects():
    champion = Study.of(RECORD).champion
    html = champion._repr_html_()
    assert champion.rule in html
    assert f"{summary(RECORD).test_auroc.value:.3f}" in html
    assert len(html) < LONGEST_CARD


def test_a_name_that_is_html_is_shown_as_text():
    html = Study.of(replace(RECORD, name="<script>alert(1)</script>"))._repr_html_()
    assert "<script>" not in html


@pytest.mark.parametrize("plot", ["plot_frontier", "plot_auroc", "plot_history"])
def test_the_figures_are_those_of_the_report_and_show_themselves(plot):
    before = copy.deepcopy(dict(matplotlib.rcParams))
    picture = getattr(Study.of(RECORD), plot)()
    assert isinstance(picture, Figure)
    assert picture.axes
    content, size = picture._repr_png_()
    assert content.startswith(b"\x89PNG")
    assert size["width"] == 576
    assert dict(matplotlib.rcParams) == before


def test_a_study_that_has_just_begun_has_a_card_and_says_why_there_is_no_figure():
    begun = Study.of(replace(RECORD, trials=RECORD.trials.iloc[:0], history=RECORD.history.iloc[:0], champion=None))
    assert "study" in begun._repr_html_()
    assert begun.champion is None
    for plot in (begun.plot_frontier, begun.plot_auroc, begun.plot_history):
        with pytest.raises(UserError, match=rf"^{RECORD.name}: "):
            plot()


def test_studies_are_compared_in_a_table_by_themselves_or_by_name(tmp_path):
    other = replace(RECORD, name="other")
    table = compare(RECORD, other)
    assert table["study"].tolist() == [RECORD.name, "other"]
    assert table["auroc"].tolist() == pytest.approx([summary(RECORD).test_auroc.value] * 2)
    with pytest.raises(UserError, match="no tracking store"):
        compare(RECORD, "another", home=tmp_path)


def test_progress_replaces_the_line_in_the_cell(monkeypatch):
    shown = []

    class Handle:
        def update(self, html):
            shown[-1] = html.data

    class Display:
        HTML = staticmethod(lambda text: type("Html", (), {"data": text}))

        @staticmethod
        def display(html, display_id):
            shown.append(html.data)
            return Handle()

    monkeypatch.setattr("vae_study.notebook.import_module", lambda name: Display)
    console = CellConsole()
    console.print("1/8 trials")
    console.print("2/8 trials  <b>")
    assert shown == ["<pre>2/8 trials  &lt;b&gt;</pre>"]
    assert Progress(console, 8).bar.disable


def test_outside_of_a_notebook_nothing_is_shown(capsys):
    quiet_console().print("1/8 trials")
    assert capsys.readouterr() == ("", "")


@pytest.mark.studies
def test_the_notebook_of_the_docs_runs_and_has_its_outputs(tmp_path):
    committed, ran = (
        nbformat.read(reference.NOTEBOOK, as_version=4),
        nbformat.reads(reference.execute(reference.NOTEBOOK), as_version=4),
    )
    kinds = [[sorted(kind for out in cell.get("outputs", ()) for kind in out.get("data", ())) for cell in one.cells]
             for one in (committed, ran)]  # fmt: skip
    assert kinds[0] == kinds[1]
    text = reference.NOTEBOOK.read_text(encoding="utf-8")
    assert text.count('"image/png": "') == 3
    assert "/8 trials" in text
    assert "stderr" not in text
    assert "study machines" in text
    assert "Traceback" not in text
