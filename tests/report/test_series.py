"""The section on the series of test: its words, its numbers and its lines against the rows that are stored."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.detector.series import alarm_metrics
from vae_study.report.figure import Panel, panel
from vae_study.report.formatting import Words
from vae_study.report.page import figures, pages
from vae_study.report.sections import series as section
from vae_study.report.sections.series import BUCKETS, alarm_note, series, stretch_grid
from vae_study.report.sections.series_figure import SERIES, interactive_series
from vae_study.report.tables import StudyTables

from tests.sequences import STEPS


def test_each_row_has_its_own_values_and_the_score_of_the_window_that_ends_with_it(plant):
    frame, data, detector, rows = plant.frame, plant.data, plant.detector, plant.rows
    source = frame.loc[rows["row"]]
    assert (pd.to_datetime(rows["time"]).to_numpy() == source["ts"].to_numpy()).all()
    assert rows["series"].tolist() == source["machine"].tolist()
    assert rows["anomaly"].tolist() == source["fault"].eq(1).tolist()
    np.testing.assert_allclose(rows["value/heat"], source["heat"], rtol=1e-4, atol=1e-4)
    assert rows["value/mode"].tolist() == source["mode"].tolist()
    # The gap of one machine cuts it.
    assert rows.groupby("segment")["series"].nunique().eq(1).all()
    assert rows["segment"].nunique() == 3
    x_RF, place = data.splits["test"].x_ND.rows_RF, np.arange(len(rows))
    first = rows.groupby("segment")["row"].transform(lambda part: part.index[0]).to_numpy()
    start = np.maximum(place - STEPS + 1, first)
    windows = np.stack([x_RF[one : one + STEPS].ravel() for one in start])
    scored = detector.score(windows)
    np.testing.assert_array_equal(rows["score"], scored["score"])
    # Windows one behind the other: their rows' costs and KL add up to those of the windows.
    ends = np.flatnonzero((place - first) % STEPS == STEPS - 1)[:20]
    tiles = [slice(end - STEPS + 1, end + 1) for end in ends]
    [trial] = detector.trials.values()
    cost = [rows.iloc[tile][[name for name in rows if name.startswith("cost/")]].to_numpy().sum() for tile in tiles]
    np.testing.assert_allclose(cost, scored["reconstruction"].iloc[ends] - trial.usual_D.sum(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose([rows["kl"].iloc[tile].sum() for tile in tiles], scored["kl"].iloc[ends], rtol=1e-4)


def test_the_page_tells_of_a_stretch_what_the_stored_rows_say(plant):
    detector, rows, record = plant.detector, plant.rows, plant.record
    tables = StudyTables(record)
    grid = stretch_grid(tables)
    threshold = detector.description.thresholds["99"]
    # Row by row, in each machine's segments.
    runs: list[list[int]] = []
    for place, (score, segment) in enumerate(zip(rows["score"], rows["segment"], strict=True)):
        if score > threshold:
            if runs and place - runs[-1][-1] <= STEPS and rows["segment"].iloc[runs[-1][-1]] == segment:
                runs[-1].append(place)
            else:
                runs.append([place])
    runs.sort(key=lambda run: -rows["score"].iloc[run].max())
    assert len(runs) > 1
    assert len(grid.rows) == min(len(runs), 10)
    cells = [dict(zip(grid.head, row, strict=True)) for row in grid.rows]
    for cell, run in zip(cells, runs, strict=False):
        whole = rows.iloc[run[0] : run[-1] + 1]
        assert cell["machine"] == whole["series"].iloc[0]
        assert [pd.Timestamp(cell[end]) for end in ("from", "to")] == [*pd.to_datetime(whole["time"].iloc[[0, -1]])]
        assert float(cell["peak score"].replace(",", "")) == pytest.approx(whole["score"].max(), rel=1e-3)
        assert float(cell["mean score"].replace(",", "")) == pytest.approx(whole["score"].mean(), rel=1e-3)
        assert cell["anomalous range"] == ("yes" if whole["anomaly"].any() else "no")
        begin = max(run[0] - STEPS + 1, int((rows["segment"] == whole["segment"].iloc[0]).to_numpy().argmax()))
        costs = rows.iloc[begin : run[-1] + 1][["cost/speed", "cost/heat", "cost/mode"]].sum()
        assert cell["sensors with the highest cost"].split("\N{NO-BREAK SPACE}")[0] == costs.idxmax()[5:]
    assert {cell["anomalous range"] for cell in cells} >= {"yes"}
    found = alarm_metrics(rows, detector)
    note = alarm_note(tables)
    assert f"{100 * found['ranges_found']:.1f} %" in note
    assert f"{found['false_alarms_a_day']:.2f} false alarms a day" in note
    assert str(pd.Timedelta(round(found["detection_delay"]), "s")).removeprefix("0 days ") in note
    told = [pd.Timedelta(cell["delay"]).total_seconds() for cell in cells if cell["delay"] != "–"]
    if len(runs) <= 10:
        assert np.mean(told) == pytest.approx(found["detection_delay"], rel=1e-6)


def test_the_page_has_the_section_and_its_live_figure_is_small(plant):
    record = plant.record
    tables = StudyTables(record)
    # The other figures are other tests' business, and take seconds.
    others = {figure.name: Panel(name=figure.name, png=None, words=Words()) for figure in figures()}
    html, markdown = pages(tables, {**others, SERIES.name: panel(SERIES, tables)})
    for text in (html, markdown):
        assert "The series of test" in text
        assert "The most anomalous stretches" in text
    table = tables.once(series)
    figure = interactive_series(table, None).plain()
    assert len(json.dumps(figure)) < 300_000
    assert [view["label"] for view in figure["views"]][:3] == [one.label for one in table.views][:3]
    # Speed, heat, the KL of each step, and the score; the mode is text.
    assert len(figure["data"]) == 2 * 2 + 2
    assert "mode, which is text" in table.left_out
    without = StudyTables(replace(record, champion=replace(record.champion, series=pd.DataFrame())))
    assert "The series of test" not in pages(without, others)[0]


@settings(max_examples=8)
@given(st.integers(2 * BUCKETS + 1, 1500), st.integers(0, 2**32 - 1))
def test_of_a_long_period_the_lowest_and_highest_value_of_each_part_are_drawn(count, seed):
    random = np.random.default_rng(seed)
    time, value = np.cumsum(random.integers(1, 4, count)).astype(float), random.normal(size=count)
    value[random.random(count) < 0.1] = np.nan
    time -= time[0]
    place, step, is_exact = section._places(time, 1.0)
    drawn = section._ends(place, value)
    assert not is_exact
    assert len(drawn) <= 2 * BUCKETS
    for part in range(len(drawn) // 2):
        inside = value[(time >= 2 * step * part * (1 - 1e-12)) & (place == part)]
        pair = drawn[2 * part : 2 * part + 2]
        if np.isfinite(inside).any():
            assert sorted(pair) == [np.nanmin(inside), np.nanmax(inside)]
        else:
            assert np.isnan(pair).all()
    assert np.nanmax(drawn) == np.nanmax(value)
    assert np.nanmin(drawn) == np.nanmin(value)
