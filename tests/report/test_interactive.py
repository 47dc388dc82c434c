"""Interactive figures: valid for the library, in few bytes, of the tables' numbers, and with no secret in them."""

import html
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vae_study.report.interactive import brief, runs_address, said
from vae_study.report.page import figures_json, interactive_figures
from vae_study.report.plane import MOST_LINES, MOST_POINTS, plane, sampled_trials
from vae_study.report.tables import StudyTables
from vae_study.tracking.record import StudyRecord

from .eventful import eventful
from .odd import NASTY, ODD, odd
from .studies import study

COLOURS = {"scale": "Viridis"}


@pytest.fixture(scope="module")
def many() -> StudyTables:
    """The tables of a study of 4,000 trials."""
    made = study(trials=200, epochs=2)
    random, parts = np.random.default_rng(0), []
    for i in range(20):
        part = made.trials.assign(trial=made.trials["trial"] + 200 * i)
        parts.append(part.assign(**{"val/kl": part["val/kl"] * random.uniform(1, 1.5, 200)}))
    return StudyTables(replace(made, trials=pd.concat(parts, ignore_index=True)))


def as_drawn(value: Any) -> Any:
    """As the page's script makes it for the library: its own names of colours replaced."""
    if isinstance(value, str) and value.startswith(("var(--", "scale")):
        return COLOURS.get(value, "#123456")
    if isinstance(value, dict):
        return {key: as_drawn(inner) for key, inner in value.items()}
    return [as_drawn(inner) for inner in value] if isinstance(value, list) else value


def check(tables: StudyTables) -> None:
    """The library's own validators know every trace, every key and every value, in every view."""
    for figure in interactive_figures(tables).values():
        plain = json.loads(json.dumps(figure.plain(), allow_nan=False))
        go.Figure(as_drawn(plain["data"]), as_drawn(plain["layout"]))
        for view in plain.get("views", []):
            shown = go.Figure(as_drawn(plain["data"]), as_drawn(plain["layout"]))
            shown.update_layout(as_drawn(view["layout"]))
            for place, changes in view["changes"]:
                shown.data[place].update(as_drawn(changes))


@pytest.mark.parametrize("name", ["one trial", "discrete", "nasty names", "infinite", "one objective and no labels"])
def test_the_library_takes_every_figure_of_odd_studies(name: str) -> None:
    assert name in ODD
    check(StudyTables(odd(name)))


def test_the_library_takes_every_figure(digits: StudyRecord) -> None:
    check(StudyTables(eventful(digits)))


def test_of_thousands_of_trials_the_frontier_and_an_even_share_are_drawn(many: StudyTables) -> None:
    drawn, figures = sampled_trials(many), interactive_figures(many)
    numbers = set(drawn.trials["trial"])
    assert set(many.frontier["trial"]) | {many.summary.champion_trial} <= numbers
    assert len(drawn.few) <= MOST_LINES
    assert 500 < len(numbers) <= MOST_POINTS + MOST_LINES
    assert len(many.trials) == 4000
    assert "trials are shown here" in figures["plane"].note
    assert len(figures_json(many, figures).encode()) < 1_500_000


def test_what_is_drawn_are_the_tables_numbers(digits: StudyRecord) -> None:
    tables = StudyTables(digits)
    drawn, figure = sampled_trials(tables), interactive_figures(tables)["plane"]
    points = tables.of(plane).points.set_index("trial")  # type: ignore[union-attr]
    seen = set()
    for trace in figure.traces:
        for x, y, row in zip(trace["x"], trace["y"], trace.get("customdata", ()), strict=False):
            trial = int(drawn.trials["trial"][row])
            assert (x, y) == (pytest.approx(points["x"][trial], rel=1e-4), pytest.approx(points["y"][trial], rel=1e-4))
            seen.add(trial)
    assert seen == set(points.index)


def test_the_same_study_gives_the_same_text_and_names_cannot_leave_it() -> None:
    texts = [figures_json(tables, interactive_figures(tables)) for tables in map(StudyTables, [odd("nasty names")] * 2)]
    assert texts[0] == texts[1]
    assert "<" not in texts[0]
    told = json.dumps(json.loads(texts[0]), ensure_ascii=False)
    assert "&lt;script&gt;" in told
    assert said(NASTY) == html.escape(NASTY, quote=False)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("sqlite:////home/someone/mlflow.db", None),
        ("file:///home/someone/mlruns", None),
        ("postgresql://me:a-password@host/db", None),
        ("databricks", None),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000/#/experiments/1/runs/"),
        ("https://me:a-password@host/prefix/?token=abc", "https://host/prefix/#/experiments/1/runs/"),
    ],
)
def test_runs_are_linked_on_a_server_only_and_without_its_password(uri: str, address: str | None) -> None:
    assert runs_address(replace(study(trials=1, epochs=1), tracking_uri=uri)) == address


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True)))
def test_brief_numbers_are_near_and_none_only_where_not_finite(values: list[float]) -> None:
    for value, short in zip(values, brief(values), strict=True):
        assert (short is None) == (not np.isfinite(value))
        assert short is None or short == pytest.approx(value, rel=1e-4)
