"""Whole series as examples, against series that are taken one by one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from vae_study.config.data import DataConfig, SequenceConfig, SplitConfig
from vae_study.config.loading import load_config
from vae_study.data import SPLIT_NAMES, build_dataset, frame_features, open_stream, prepare, read_table
from vae_study.data.cache import _open_entry
from vae_study.data.windows import Windows
from vae_study.errors import UserError
from vae_study.vae.model_batch import ModelBatch

from ..vae.builders import model_setup, same, train
from .files import function, write_frame


def trips(lengths, seed=0, interleaved=False):
    """Series with a sensor, a category and a label; the first row of a series comes a minute after that of the last."""
    random, parts = np.random.default_rng(seed), []
    for number, length in enumerate(lengths):
        time = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(length) + 60 * number, "s")
        fault = (np.arange(length) == length // 2) & (number % 5 == 4)
        columns = {"heat": random.normal(20, 2, length), "valve": random.choice(["open", "shut"], length)}
        parts.append(pd.DataFrame({"ts": time, "trip": f"t{number}", **columns, "fault": fault.astype(int)}))
    frame = pd.concat(parts, ignore_index=True)
    order = random.permutation(len(frame))
    return frame.iloc[order].sort_values("ts", kind="stable", ignore_index=True) if interleaved else frame


def config_of(frame, split=None, **sequence):
    return DataConfig(
        source=function(lambda: frame),
        label="fault",
        scale="standard",
        missing="mask",
        sequence=SequenceConfig(**{"time": "ts", "series": "trip", "window": "whole", **sequence}),
        split=split or SplitConfig(),
    )


def data_of(frame, **sequence):
    config = config_of(frame, **sequence)
    return build_dataset(read_table(config), config)


MANY = tuple(range(2, 32))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(2, 30), min_size=8, max_size=25),
    st.booleans(),
    st.sampled_from(["random", "group"]),
    st.integers(0, 2**32 - 1),
)
def test_each_series_is_one_example_of_one_split_as_long_as_it_is(lengths, interleaved, by, seed):
    frame = trips(lengths, seed, interleaved)
    frame["heat"] = np.random.default_rng(seed).permutation(len(frame)) + 0.0
    try:
        config = config_of(frame, SplitConfig(by=by, seed=seed % 1000))
        data = build_dataset(read_table(config), config)
    except UserError:
        event("refused")
        return
    event("taken")
    steps, features = data.sequence_shape
    assert steps == max(lengths)
    by_heat = {round(rows["heat"].iloc[0]): rows for _, rows in frame.groupby("trip")}
    seen = []
    for name in SPLIT_NAMES:
        split = data.splits[name]
        assert split.values_N.tolist() == (~np.isnan(np.asarray(split.x_ND))).sum(axis=1).tolist()
        for place in range(len(split.x_ND)):
            x_TF = split.x_ND[place].reshape(steps, features)
            back = data.preprocessing.inverse(split.x_ND[[place]])
            rows = by_heat[round(back["heat"].iloc[0])]
            seen.append(rows["trip"].iloc[0])
            np.testing.assert_allclose(back["heat"][: len(rows)], rows["heat"], atol=1e-3)
            assert back["valve"][: len(rows)].tolist() == rows["valve"].tolist()
            assert np.isnan(x_TF[len(rows) :]).all()
            assert split.is_anomaly_N[place] == rows["fault"].any()
            shown = rows.index[rows["fault"] == 1][-1] if rows["fault"].any() else rows.index[-1]
            assert split.row_N[place] == shown
    assert sorted(seen) == sorted(frame["trip"].unique())
    assert not data.splits["train"].is_anomaly_N.any()


def test_series_of_different_length_are_views_in_memory_in_the_cache_and_on_a_device(tmp_path):
    frame = trips(MANY)
    source, path = write_frame("parquet", frame, tmp_path)
    config = config_of(frame).model_copy(update={"source": source, "path": str(path)})
    held, mapped = build_dataset(read_table(config), config), prepare(config)
    _open_entry.cache_clear()
    for data in (mapped, prepare(config)):
        for name in SPLIT_NAMES:
            ours, theirs = data.splits[name], held.splits[name]
            np.testing.assert_array_equal(ours.x_ND, theirs.x_ND)
            np.testing.assert_array_equal(ours.length_N, theirs.length_N)
    # The rows themselves, and none that fill a series up.
    assert sum(len(one.x_ND.rows_RF) for one in held.splits.values()) == len(frame)
    views = held.splits["train"].x_ND
    x_ND = np.asarray(views)
    tensors = [torch.as_tensor(np.array(one)) for one in (views.rows_RF, views.start_N, views.length_N)]
    on_device = Windows(tensors[0], tensors[1], views.steps, tensors[2])
    for key in (slice(1, 5), slice(None, None, 3), np.array([4, 0, 4]), np.array([], int), 2):
        np.testing.assert_array_equal(views[key], x_ND[key])
        on_device_key = torch.as_tensor(key) if isinstance(key, np.ndarray) else key
        np.testing.assert_array_equal(on_device[on_device_key], x_ND[key])
    some = np.array([3, 1])
    np.testing.assert_array_equal(views.only(some), x_ND[some])


@pytest.mark.parametrize("network", [{"kind": "mlp"}, {"kind": "recurrent"}], ids=["mlp", "recurrent"])
def test_training_on_series_gives_the_bits_of_training_on_copies_that_are_filled_up(network):
    data = data_of(trips(MANY))
    copies = {name: replace(split, x_ND=np.asarray(split.x_ND), start_N=None) for name, split in data.splits.items()}
    values = {f"network__{name}": value for name, value in {"hidden": (8,), **network}.items()}
    batches = [
        ModelBatch([model_setup(seed, training__batch_size=4, likelihood="gaussian", **values) for seed in (0, 1)], one)
        for one in (data, replace(data, splits=copies))
    ]
    ours, theirs = (train(batch, 2) for batch in batches)
    # The AUROC of copies is of sums.
    assert [[one["train/loss"] for one in epoch] for epoch in ours] == [
        [one["train/loss"] for one in epoch] for epoch in theirs
    ]
    assert all(same(batches[0].state(k), batches[1].state(k)) for k in (0, 1))


@pytest.mark.parametrize("kind", ["parquet", "csv", "function"])
@pytest.mark.parametrize("interleaved", [True, False])
def test_a_scored_row_has_the_series_that_it_is_in(kind, interleaved, tmp_path):
    data = data_of(trips(MANY))
    new = trips((3, 31, 7), seed=1, interleaved=interleaved).drop(columns="fault")
    source, path = write_frame(kind, new, tmp_path)
    [batch] = open_stream(str(path or source), data.preprocessing)
    for trip, rows in new.groupby("trip"):
        assert batch.x_ND.step_N[rows.index].tolist() == list(range(len(rows)))
        for row in rows.index:
            back = data.preprocessing.inverse(batch.x_ND[[row]])["heat"]
            np.testing.assert_allclose(back[: len(rows)], rows["heat"], rtol=1e-5, err_msg=trip)
            assert back[len(rows) :].isna().all()
    np.testing.assert_array_equal(frame_features(new, data.preprocessing), batch.x_ND)
    series, place_N = batch.x_ND.each_once()
    assert len(series) == 3
    np.testing.assert_array_equal(series[place_N], batch.x_ND)


def test_what_is_assumed_is_said():
    notes = data_of(trips(MANY)).notes
    assert notes[0] == "30 series with 495 rows 00:00:01 apart, each series is one example"
    assert notes[1].startswith("series: ")
    assert notes[2] == "series have 2 to 31 rows, and are masked behind their end up to 31"
    assert data_of(trips(MANY), longest=40).sequence_shape[0] == 40
    gap = trips(MANY)
    gap = gap.drop(index=gap[gap["trip"] == "t20"].index[1:4])
    notes = data_of(gap, max_gap="2s").notes
    assert notes[0].endswith("each segment is one example")
    assert "segments of a single row, in no split: 1 with 1 rows" in notes


def test_empty_steps_of_a_series_are_filled_in_however_long_the_gap_is_and_do_not_cut_it():
    frame = trips(MANY)
    frame = frame.drop(index=frame[frame["trip"] == "t29"].index[2:20]).reset_index(drop=True)
    data = data_of(frame, resample="1s")
    assert data.sequence_shape[0] == 31
    assert any("18 steps are empty" in note for note in data.notes)
    assert sum(len(split.x_ND) for split in data.splits.values()) == 30


REFUSED = {
    "too long": (trips(MANY), {"longest": 29}, "2 of 30 series are longer than the model takes, the"),
    "a single row": (
        trips((*MANY, 1)),
        {},
        "1 of 31 series have a single row, the first has 1 (from row 496 on); expected at least 2 rows",
    ),
    "a gap": (
        trips(MANY).drop(index=[100]),
        {},
        "1 of 494 rows come more than 00:00:01.500000 after the one before, the first in row 101",
    ),
    "unsorted": (trips(MANY).iloc[::-1], {}, "times earlier than the row before, the first in row 2"),
    "no such series": (trips(MANY), {"series": "trips"}, "no column (of data.sequence.series) 'trips'"),
    "few": (trips((5, 6)), {}, "which leaves it no normal series"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_wrong_series_are_refused_with_place_and_count(wrong):
    frame, sequence, says = REFUSED[wrong]
    with pytest.raises(UserError) as caught:
        data_of(frame, **sequence)
    assert says in str(caught.value)


def test_a_scored_series_that_is_too_long_or_too_short_is_refused_with_place_and_count():
    data = data_of(trips(MANY))
    for lengths, says in (
        ((5, 32, 33), r"2 of 3 series are longer .*the first has 32 \(from row 6 on\); expected at most 31"),
        ((5, 1), r"1 of 2 series have a single row, the first has 1 \(from row 6 on\)"),
    ):
        with pytest.raises(UserError, match=says):
            frame_features(trips(lengths).drop(columns="fault"), data.preprocessing)


WRONG_KEYS = {
    "data.sequence.series=null": r"data.sequence.series: is missing; with data.sequence.window whole",
    "data.split.by=time": r"data.split.by: got 'time', expected with data.sequence.window whole 'random' or 'group'",
    "data.split.by=stratified": r"data.split.by: got 'stratified', expected with data.sequence.window whole",
    "data.missing=refuse": r"data.missing: got 'refuse', expected 'mask' with data.sequence.window whole",
    "data.sequence.stride=2": r"data.sequence.stride: got 2, expected none with data.sequence.window whole",
    "data.sequence.longest=1": r"data.sequence.longest: got 1, expected at least 2",
    "data.sequence.window=all": r"data.sequence.window: .*'all'.*whole: each series is one example",
    "data.sequence.window=true": r"data.sequence.window: ",
    "data.sequence.window=1": r"data.sequence.window: .*2 or more",
    "data.sequence={time: ts, window: 5, longest: 9}": r"data.sequence.longest: got 9, expected none",
}


@pytest.mark.parametrize("setting", WRONG_KEYS)
def test_keys_that_do_not_go_together_are_refused(setting):
    sequence = {"time": "ts", "series": "trip", "window": "whole"}
    plain = {"study": "s", "data": {"source": "parquet", "path": "x", "missing": "mask", "sequence": sequence}}
    load_config(plain)
    with pytest.raises(UserError, match=WRONG_KEYS[setting]):
        load_config(plain, [setting])
