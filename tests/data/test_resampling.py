"""Steps of one length against pandas' resample."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from vae_study.data import frame_features, open_stream
from vae_study.data.resampling import resample
from vae_study.data.sources import read_table
from vae_study.data.windows import SequenceInput
from vae_study.errors import UserError

from .files import write_frame
from .test_windows import BY_TIME, config_of, data_of, refusal


def irregular(lengths, seed=0, late=0.0, missing=0.1):
    """Machines whose rows come at random moments, some at the same one, with gaps of up to `late` seconds."""
    random = np.random.default_rng(seed)
    parts = []
    for number, length in enumerate(lengths):
        seconds = np.cumsum(random.exponential(0.7, length) + late * (random.random(length) < 0.1))
        seconds[random.random(length) < 0.2] //= 1
        time = pd.Timestamp("2024-02-29 23:59:30") + pd.to_timedelta(np.sort(seconds).round(3), "s")
        heat, valve = random.normal(20, 2, length), random.choice(["open", "shut"], length).astype(object)
        heat[random.random(length) < missing], valve[random.random(length) < missing] = np.nan, None
        fault = (random.random(length) < 0.03).astype(int)
        parts.append(pd.DataFrame({"ts": time, "machine": f"m{number}", "heat": heat, "valve": valve, "fault": fault}))
    return pd.concat(parts, ignore_index=True).sort_values("ts", kind="stable", ignore_index=True)


def by_pandas(frame, width, limit):
    """Each machine's steps, without the empty ones of gaps longer than the limit."""
    found = []
    for machine, rows in frame.reset_index(names="row").groupby("machine", sort=False):
        bins = rows.set_index("ts").resample(width, origin="epoch")
        made = pd.DataFrame({"heat": bins["heat"].mean(), "valve": bins["valve"].last(), "any": bins["fault"].max()})
        made["row"], made["machine"] = bins["row"].last(), machine
        has_row = bins.size() > 0
        before = pd.Series(made.index.where(has_row), made.index).ffill()
        after = pd.Series(made.index.where(has_row), made.index).bfill()
        found.append(made[has_row | (after - before <= limit)])
    return pd.concat(found)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.sampled_from(["1s", "2s", "700ms", "1min"]),
    st.sampled_from([0.0, 3.0, 9.0]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_steps_are_those_of_pandas_and_every_row_has_its_own(lengths, width, late, fills, seed):
    frame = irregular(lengths, seed, late)
    config = config_of(frame, resample=width, max_gap="1min" if width == "1min" else "5s")
    table = read_table(config)
    assume(len(table.feature_names) == len(table.category_names) == 1)
    sequence = SequenceInput.of(table, config.sequence, fills=fills)
    made = resample(table, sequence, frame["fault"].to_numpy(bool))
    found = made.table
    expected = by_pandas(frame, width, pd.Timedelta(sequence.limit if fills else 0))
    assert pd.to_datetime(found.time_N).tolist() == expected.index.tolist()
    np.testing.assert_allclose(found.x_ND[:, 0], expected["heat"], rtol=1e-12)
    names = np.array([*found.categories[0], None], object)
    assert names[found.code_NC[:, 0]].tolist() == [None if pd.isna(one) else one for one in expected["valve"]]
    has_row = expected["any"].notna().to_numpy()
    event("filled" if not has_row.all() else "whole")
    assert made.is_anomaly_R[has_row].tolist() == (expected["any"][has_row] > 0).tolist()
    around = zip(expected["any"].ffill(), expected["any"].bfill(), strict=True)
    assert made.is_anomaly_R.tolist() == [bool(before and after) for before, after in around]
    assert frame["fault"].to_numpy(bool)[found.row_N].tolist() == made.is_anomaly_R.tolist()
    is_usual = has_row & ~made.is_anomaly_R
    assert found.row_N[is_usual].tolist() == expected["row"][is_usual].tolist()
    since_N = frame["ts"].to_numpy("datetime64[ns]").astype(np.int64) - found.time_N[made.step_N]
    assert ((since_N >= 0) & (since_N < pd.Timedelta(width).value)).all()
    assert frame["machine"].tolist() == expected["machine"].iloc[made.step_N].tolist()


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_scoring_gives_a_row_the_window_that_ends_with_its_step(kind, tmp_path):
    settings = {"resample": "1s", "max_gap": "5s", "window": 3}
    config = config_of(irregular((400, 300, 350), 1, 3.0), BY_TIME, **settings).model_copy(update={"missing": "mask"})
    data = data_of(None, config=config)
    assert data.sequence_shape == (3, 3)
    assert any(note.startswith("1,050 rows become steps of 00:00:01: ") for note in data.notes)
    new = irregular((150, 120), 2, 1.0).drop(columns="fault")
    source, path = write_frame(kind, new, tmp_path)
    stream = open_stream(str(path or source), data.preprocessing)
    x_ND = np.concatenate([np.asarray(batch.x_ND) for batch in stream])
    np.testing.assert_array_equal(frame_features(new, data.preprocessing), x_ND)
    [note] = [n for n in stream.differences.notes() if "steps" in n]
    by_step = by_pandas(new.assign(fault=0), "1s", pd.Timedelta("5s"))
    assert note.startswith(f"270 rows become steps of 00:00:01: {by_step['any'].notna().sum()} steps with a row; ")
    assert note.endswith(f"; {by_step['any'].isna().sum()} steps are empty")
    steps = by_pandas(new.assign(fault=0), "1s", pd.Timedelta("5s"))
    by_time = {key: place for place, key in enumerate(zip(steps["machine"], steps.index, strict=True))}
    is_new = (steps["machine"] != steps["machine"].shift()) | (steps.index.to_series().diff() > "5s").to_numpy()
    start = np.flatnonzero(is_new)[np.cumsum(is_new) - 1]
    for row, (machine, time) in enumerate(zip(new["machine"], new["ts"].dt.floor("1s"), strict=True)):
        place = by_time[machine, time]
        first = max(place - 2, start[place])
        back = data.preprocessing.inverse(x_ND[row])
        np.testing.assert_allclose(back["heat"], steps["heat"].iloc[first : first + 3], rtol=1e-5)


def test_wrong_steps_are_refused_with_counts():
    frame = irregular((300, 200), missing=0)
    assert "expected no less than data.sequence.resample ('2s')" in refusal(frame, resample="2s", max_gap="1s")
    assert "data.sequence.resample: got 2, expected a duration such as 5s" in refusal(frame, resample=2)
    said = refusal(frame, resample="1s")
    assert "rows come more than 00:00:01.500000 after the one before, the first in row" in said
    assert said.endswith("data.sequence.max_gap cuts a series at longer gaps; data.missing: mask fills empty steps in")
    config = config_of(frame, resample="1ms", max_gap="10s").model_copy(update={"missing": "mask"})
    with pytest.raises(UserError, match=r"steps of 00:00:00.001000 give .* steps without a row, and 4\d\d with one"):
        data_of(None, config=config)
    late = frame.iloc[[1, 0, *range(2, 500)]].assign(machine="m")
    assert "1 of 500 times earlier than the row before, the first in row 2" in refusal(late, resample="1s")
    config = config_of(frame.assign(ts=np.arange(500.0) * 1e300), resample=0.5, max_gap=1)
    with pytest.raises(UserError, match=r"data.sequence.resample: got 0.5, too small for times of up to 4.99e"):
        data_of(None, config=config)
