"""Windows of time series against windows that are cut one by one."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler
from vae_study.config.data import DataConfig, SequenceConfig, SplitConfig
from vae_study.data import SPLIT_NAMES, build_dataset, frame_features, open_stream, prepare, read_table
from vae_study.data.cache import _open_entry
from vae_study.data.windows import Windows
from vae_study.errors import UserError
from vae_study.report.sections.highest_rows import user_columns
from vae_study.vae.model_batch import ModelBatch

from ..vae.builders import model_setup, same, train
from .files import function, write_frame

BY_TIME = SplitConfig(by="time", train=0.5, validation=0.25, test=0.25)
BY_SERIES = SplitConfig(by="group", train=0.5, validation=0.25, test=0.25)


def plant(lengths=(60, 50, 70), seed=0, interleaved=True, gaps=()):
    """Machines with two sensors, a category and a label; after the rows in `gaps`, an hour is missing."""
    random = np.random.default_rng(seed)
    parts = []
    for number, length in enumerate(lengths):
        minute = np.arange(length)
        for gap in gaps:
            minute[gap + 1 :] += 60
        parts.append(
            pd.DataFrame(
                {
                    "ts": pd.Timestamp("2024-01-01") + pd.to_timedelta(minute, "min"),
                    "machine": f"m{number}",
                    "heat": random.normal(20, 2, length),
                    "valve": random.choice(["open", "shut"], length),
                    "speed": random.normal(0, 1e-3, length),
                    "fault": (random.random(length) < 0.02).astype(int),
                }
            )
        )
    frame = pd.concat(parts, ignore_index=True)
    return frame.sort_values("ts", kind="stable", ignore_index=True) if interleaved else frame


def config_of(frame, split=BY_TIME, **sequence):
    columns = {"time": "ts", "series": "machine", "window": 5}
    return DataConfig(
        source=function(lambda: frame),
        label="fault",
        scale="standard",
        sequence=SequenceConfig(**{**columns, **sequence}),
        split=split,
    )


def data_of(frame, split=BY_TIME, config=None, **sequence):
    config = config or config_of(frame, split, **sequence)
    return build_dataset(read_table(config), config)


def refusal(frame, split=BY_TIME, **sequence):
    with pytest.raises(UserError) as caught:
        data_of(frame, split, **sequence)
    return str(caught.value)


def windows_one_by_one(frame, steps, stride, limit):
    """Each window's rows in the frame: of one series, no further apart than the limit; the last one ends a segment."""
    found = []
    for _, rows in frame.groupby("machine", sort=False):
        cuts = [0, *(np.flatnonzero(rows["ts"].diff() > limit)), len(rows)]
        for first, last in pairwise(cuts):
            starts = {*range(first, last - steps + 1, stride)} | ({last - steps} if last - first >= steps else set())
            found += [tuple(rows.index[start : start + steps]) for start in sorted(starts)]
    return found


def rows_of(frame, data):
    """The rows of each window of each split, found by their values, which all differ."""
    heat = frame["heat"].to_numpy()
    order = np.argsort(heat)
    found = {}
    for name, split in data.splits.items():
        steps = data.preprocessing.inverse(np.asarray(split.x_ND))["heat"].to_numpy()
        place = order[np.clip(np.searchsorted(heat[order], steps - 1e-6), 0, len(heat) - 1)]
        np.testing.assert_allclose(heat[place], steps, atol=1e-5)
        found[name] = [tuple(rows) for rows in place.reshape(len(split.row_N), -1)]
    return found


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(2, 7),
    st.integers(1, 9),
    st.lists(st.integers(0, 38), max_size=2),
    st.booleans(),
    st.sampled_from([BY_TIME, BY_SERIES]),
    st.integers(0, 2**32 - 1),
)
def test_windows_are_those_cut_one_by_one_and_no_row_is_in_two_splits(
    lengths, steps, stride, gaps, interleaved, split, seed
):
    frame = plant(lengths, seed, interleaved, sorted(gaps))
    frame["heat"] = np.random.default_rng(seed).permutation(len(frame)) / len(frame)
    try:
        data = data_of(frame, split, window=steps, stride=stride, max_gap="10min")
    except UserError:
        event("refused")
        return
    event("cut")
    every = windows_one_by_one(frame, steps, stride, pd.Timedelta("10min"))
    found, fault = rows_of(frame, data), frame["fault"].to_numpy()
    owner = {}
    for name in SPLIT_NAMES:
        assert {*found[name]} <= {*every}
        assert len({*found[name]}) == len(found[name])
        for rows, is_anomaly, shown in zip(
            found[name], data.splits[name].is_anomaly_N, data.splits[name].row_N, strict=True
        ):
            assert is_anomaly == fault[list(rows)].any()
            assert shown == max((row for row in rows if fault[row] or not is_anomaly), key=rows.index)
            assert all(owner.setdefault(row, name) == name for row in rows)
    assert not data.splits["train"].is_anomaly_N.any()
    used = {rows for name in SPLIT_NAMES for rows in found[name]}
    machine, time = frame["machine"].to_numpy(), frame["ts"].to_numpy()
    if split is BY_SERIES:
        for name in SPLIT_NAMES:
            assert not {machine[rows[0]] for rows in found[name]} & {
                machine[rows[0]] for other in SPLIT_NAMES if other != name for rows in found[other]
            }
    else:
        latest = {name: max(time[list(rows)].max() for rows in found[name]) for name in SPLIT_NAMES}
        earliest = {name: min(time[list(rows)].min() for rows in found[name]) for name in SPLIT_NAMES}
        assert latest["train"] < earliest["validation"]
        assert latest["validation"] < earliest["test"]
        # What is in no split reaches over a limit, or has a fault in the training period.
        for rows in {*every} - used:
            inside = [
                name for name in SPLIT_NAMES if earliest[name] <= time[rows[0]] and time[rows[-1]] <= latest[name]
            ]
            assert not inside or (inside == ["train"] and fault[list(rows)].any())


def test_each_sensor_has_one_scale_fitted_to_the_rows_that_train_covers():
    frame = plant()
    data = data_of(frame)
    used = sorted({row for rows in rows_of(frame, data)["train"] for row in rows})
    x_NTF = np.asarray(data.splits["test"].x_ND).reshape(-1, *data.sequence_shape)
    rows = np.array(rows_of(frame, data)["test"])
    for place, name in enumerate(("heat", "speed")):
        scaler = StandardScaler().fit(frame.loc[used, [name]].to_numpy())
        expected = scaler.transform(frame[[name]].to_numpy())[rows, 0]
        np.testing.assert_allclose(x_NTF[:, :, place], expected, atol=1e-4)
    assert data.sequence_shape == (5, 4)
    assert data.feature_names[:3] == ("heat[t-4]", "speed[t-4]", "valve=open[t-4]")
    assert data.feature_names[-4:] == ("heat[t]", "speed[t]", "valve=open[t]", "valve=shut[t]")
    back = data.frame(np.asarray(data.splits["test"].x_ND)[:3])
    assert back["valve"].tolist() == frame["valve"].to_numpy()[rows[:3]].ravel().tolist()
    assert back["machine"].tolist() == ["0"] * 5 + ["1"] * 5 + ["2"] * 5


def test_a_reason_of_a_window_is_the_step_of_a_sensor_that_cost_most():
    frame = plant()
    data = data_of(frame)
    place_T = np.array([7, 0, 3])
    rows, nats_TD = np.array(rows_of(frame, data)["test"])[place_T], np.random.default_rng(0).random((3, 20))
    x_TD = np.asarray(data.splits["test"].x_ND)[place_T]
    columns = {one.name: one for one in user_columns(data.preprocessing, x_TD, x_TD, nats_TD)}
    assert [*columns] == ["heat", "speed", "valve"]
    nats_TSF = nats_TD.reshape(3, 5, 4)
    for name, features in (("heat", [0]), ("speed", [1]), ("valve", [2, 3])):
        cost_TS = nats_TSF[:, :, features].sum(axis=2)
        np.testing.assert_allclose(columns[name].nats_T, cost_TS.sum(axis=1))
        expected = [frame[name].iloc[row[step]] for row, step in zip(rows, cost_TS.argmax(axis=1), strict=True)]
        if name == "valve":
            assert [*columns[name].value_T] == expected
        else:
            np.testing.assert_allclose(columns[name].value_T, expected, rtol=1e-4)


def test_windows_are_views_in_memory_and_in_the_cache(tmp_path):
    frame = plant()
    source, path = write_frame("parquet", frame, tmp_path)
    config = config_of(frame).model_copy(update={"source": source, "path": str(path)})
    held, mapped = build_dataset(read_table(config), config), prepare(config)
    _open_entry.cache_clear()
    for data in (held, mapped, prepare(config)):
        assert data.sequence_shape == (5, 4)
        for name in SPLIT_NAMES:
            split = data.splits[name]
            assert isinstance(split.x_ND, Windows)
            assert isinstance(split.normal_ND, Windows)
            assert len(split.x_ND.rows_RF) <= len(frame)
            np.testing.assert_array_equal(split.x_ND, held.splits[name].x_ND)
            assert len(split.is_anomaly_R) == len(split.x_ND.rows_RF)
            assert split.is_anomaly_R.any() == split.is_anomaly_N.any()
            for key in ("is_anomaly_N", "row_N", "label_N", "start_N", "is_anomaly_R"):
                np.testing.assert_array_equal(getattr(split, key), getattr(held.splits[name], key))
    x_ND = np.asarray(held.splits["test"].x_ND)
    windows, is_anomaly_N = held.splits["test"].x_ND, held.splits["test"].is_anomaly_N
    for key in (slice(3, 9), slice(None, None, 4), np.array([5, 1, 5]), is_anomaly_N):
        np.testing.assert_array_equal(windows[key], x_ND[key])
    assert (windows.shape, len(windows)) == (x_ND.shape, len(x_ND))
    np.testing.assert_array_equal(windows.only(is_anomaly_N), x_ND[is_anomaly_N])
    assert np.shares_memory(windows.only(is_anomaly_N).rows_RF, windows.rows_RF)


def test_training_on_windows_gives_the_bits_of_training_on_copies():
    data = data_of(plant())
    copies = {name: replace(split, x_ND=np.asarray(split.x_ND), start_N=None) for name, split in data.splits.items()}
    batches = [
        ModelBatch([model_setup(seed, likelihood="gaussian", training__batch_size=8) for seed in (0, 1)], one)
        for one in (data, replace(data, splits=copies))
    ]
    assert train(batches[0], 3) == train(batches[1], 3)
    assert all(same(batches[0].state(k), batches[1].state(k)) for k in (0, 1))


@pytest.mark.parametrize("kind", ["parquet", "csv", "function"])
@pytest.mark.parametrize("interleaved", [True, False])
def test_scoring_gives_each_row_the_window_that_ends_with_it(kind, interleaved, tmp_path):
    data = data_of(plant(), max_gap="10min")
    new = plant((30, 30), seed=1, interleaved=interleaved, gaps=(20,)).drop(columns="fault")
    source, path = write_frame(kind, new, tmp_path)
    stream = open_stream(str(path or source), data.preprocessing, keys=["heat"])
    batches = [*stream]
    x_ND = np.concatenate([np.asarray(batch.x_ND) for batch in batches])
    assert [*batches[0].keys.column_names] == ["ts", "machine", "heat"]
    heat = new["heat"].to_numpy()
    segment = new.groupby("machine", sort=False)["ts"].transform(lambda time: (time.diff() > "10min").cumsum())
    for _, rows in new.groupby([new["machine"], segment], sort=False):
        for place, row in enumerate(rows.index):
            end = max(place, 4)
            expected = heat[rows.index[end - 4 : end + 1]]
            got = data.preprocessing.inverse(x_ND[row])["heat"].to_numpy()
            np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_array_equal(frame_features(new, data.preprocessing), x_ND)


REFUSED = {
    "unsorted": (
        lambda f: f.iloc[[*range(40), 41, 40, *range(42, 180)]].reset_index(drop=True),
        {"series": None},
        "column 'ts': 1 of 180 times earlier than the row before, the first in row 42; expected the rows in the order",
    ),
    "doubled": (
        lambda f: pd.concat([f, f.iloc[[-1]]], ignore_index=True),
        {},
        "column 'ts': 1 of 181 times equal to the row before, the first in row 181; expected each time once of",
    ),
    "gap": (
        lambda f: f.drop(index=[30, 31, 100]).reset_index(drop=True),
        {},
        "2 of 177 rows come more than 00:01:30 after the one before, the first in row 31, the longest gap is",
    ),
    "one row": (lambda f: f.iloc[:1], {}, "got 1 row (from row 1 on); expected at least the 5 of data.sequence.window"),
    "long window": (
        lambda f: f,
        {"window": 71},
        "3 segments, of which the longest has 70 rows (from row 111 on); expected at least the 71",
    ),
    "number as gap": (lambda f: f, {"max_gap": 5}, "data.sequence.max_gap: got 5, expected a duration such as 5s"),
    "no such time": (
        lambda f: f,
        {"time": "tz"},
        "no column (of data.sequence.time) 'tz'; expected one of ts, machine",
    ),
    "no time": (lambda f: f.drop(columns="ts"), {"time": "valve"}, "expected times or numbers for data.sequence.time"),
    "missing time": (
        lambda f: f.assign(ts=f["ts"].where(f.index != 7)),
        {},
        "column 'ts': 1 of 180 values is missing; expected a time",
    ),
    "few series": (lambda f: f[f["machine"] == "m1"], {"split": BY_SERIES}, "which leaves it no normal window"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_wrong_series_are_refused_with_place_and_count(wrong):
    change, sequence, says = REFUSED[wrong]
    frame = plant(interleaved=False)
    if sequence.get("series", "") is None:
        frame["ts"] = pd.date_range("2024-01-01", periods=len(frame), freq="min")
    frame = change(frame)
    assert says in refusal(frame, **sequence)


def test_a_scored_series_without_a_window_or_with_other_times_is_refused():
    data = data_of(plant())
    new = plant((30, 4)).drop(columns="fault")
    with pytest.raises(UserError, match="1 of 2 segments without a gap are shorter than a window, the first has 4"):
        frame_features(new, data.preprocessing)
    with pytest.raises(UserError, match="column 'ts': got numbers, expected times, as in training"):
        frame_features(new.assign(ts=range(len(new))), data.preprocessing)
    with pytest.raises(UserError, match=r"no column \(of data.sequence.series\) 'machine'"):
        frame_features(new.drop(columns="machine"), data.preprocessing)


def test_times_may_be_numbers_and_notes_say_what_was_assumed():
    frame = plant((200,))
    frame["ts"] = np.arange(200) * 0.5
    frame.loc[120:, "ts"] += 40
    data = data_of(frame, series=None, max_gap=2, stride=3)
    assert data.notes[0] == "one series with 200 rows 0.5 apart, windows of 5 rows"
    assert data.notes[1] == (
        "1 of 200 rows come more than 2 after the one before, and start a new segment: the first in row 121, "
        "the longest gap is 40.5"
    )
    assert data.notes[2].startswith("windows: ")
