"""Windows of a table that is read part by part, against those of all its rows at once."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from vae_study.data import open_stream, stream
from vae_study.data.differences import Differences
from vae_study.data.sources.python import frame_rows
from vae_study.data.window_stream import WindowReader
from vae_study.errors import UserError

from .files import write_frame
from .test_resampling import irregular
from .test_windows import BY_TIME, config_of, data_of, plant

STEPS = 4


def preprocessing_of(is_resampled):
    if is_resampled:
        more = {"resample": "1s", "max_gap": "5s", "window": STEPS}
        config = config_of(irregular((400, 300, 350), 1, 3.0), BY_TIME, **more)
        return data_of(None, config=config.model_copy(update={"missing": "mask"})).preprocessing
    return data_of(plant(), max_gap="10min", window=STEPS).preprocessing


@pytest.fixture(scope="module")
def fitted():
    return {is_resampled: preprocessing_of(is_resampled) for is_resampled in (True, False)}


def parts_of(rows, size):
    """The same rows in batches of a size."""

    def batches(names):
        table = pa.Table.from_batches(rows.batches(names))
        yield from table.combine_chunks().to_batches(max_chunksize=size)

    return replace(rows, batches=batches)


def new_rows(is_resampled, lengths, seed, interleaved, gaps):
    if is_resampled:
        frame = irregular(lengths, seed, 3.0 if gaps else 0.0)
        return frame if interleaved else frame.sort_values("machine", kind="stable", ignore_index=True)
    return plant(lengths, seed, interleaved, gaps)


@settings(deadline=None, max_examples=70)
@given(
    st.booleans(),
    st.lists(st.integers(4, 60), min_size=1, max_size=5),
    st.integers(1, 40),
    st.booleans(),
    st.lists(st.integers(4, 40), max_size=2, unique=True),
    st.integers(0, 2**32 - 1),
)
# Of a segment that is over, rows are held that count as a shorter one.
@example(is_resampled=True, lengths=[37, 10, 17], size=1, interleaved=True, gaps=[], seed=10)
def test_part_by_part_each_row_has_the_bits_of_the_window_that_it_has_of_all_rows_at_once(
    fitted, is_resampled, lengths, size, interleaved, gaps, seed
):
    preprocessing = fitted[is_resampled]
    frame = new_rows(is_resampled, lengths, seed, interleaved, sorted(gaps)).drop(columns="fault")
    rows = parts_of(frame_rows(frame, "new"), size)
    sequence, keys = preprocessing.sequence, ("ts", "machine", "heat")
    rows, columns = stream.model_columns(rows, preprocessing, keys)
    once, in_turn = (Differences(preprocessing) for _ in range(2))
    try:
        expected = stream._windows(rows, columns, preprocessing, lambda part: once.add(part.table), once.say)
    except UserError as error:
        event("refused")
        message = re.escape(str(error))
        with pytest.raises(UserError, match=f"^{message}$"):
            [*stream._window_batches(rows, columns, preprocessing, keys, in_turn)]
        return
    batches = [*stream._windows_in_turn(rows, columns, preprocessing, keys, in_turn)]
    event("several batches" if len(batches) > 1 else "one batch")
    assert [batch.first for batch in batches] == [0, *np.cumsum([len(batch.x_ND) for batch in batches])[:-1]]
    x_ND = np.concatenate([np.asarray(batch.x_ND) for batch in batches])
    np.testing.assert_array_equal(x_ND, np.asarray(expected))
    assert x_ND.dtype == np.float32
    found = pa.concat_tables([batch.keys for batch in batches]).to_pandas()
    assert found["heat"].equals(frame["heat"])
    assert found[sequence.time].tolist() == frame["ts"].tolist()
    assert {*in_turn.notes()} == {*once.notes()}


def test_as_many_rows_are_held_as_the_windows_of_all_series_have(fitted):
    lengths = (4000,) * 3
    for is_resampled, each in ((False, STEPS), (True, 40)):
        preprocessing = fitted[is_resampled]
        frame = new_rows(is_resampled, lengths, 0, True, ()).drop(columns="fault")
        # Where a series ends, its last step waits for the end of the table.
        frame = frame[frame["ts"] < frame.groupby("machine")["ts"].max().min()]
        # Some seconds have several rows, and others none.
        rows = parts_of(frame_rows(frame, "new"), 100)
        rows, columns = stream.model_columns(rows, preprocessing, ("ts", "machine"))
        reader, series, held = WindowReader(preprocessing), dict[str, int](), []
        for part in stream.read_parts(rows, columns):
            reader.add(stream._in_time(rows, part, preprocessing, series))
            held.append(len(reader._held.x_ND))
        reader.finish()
        assert reader.given == len(frame)
        assert max(held) <= each * len(lengths)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_wrong_row_far_behind_is_refused_with_the_counts_of_all_rows(fitted, kind, tmp_path):
    frame = plant((2000, 2000), gaps=(1500,)).drop(columns="fault")
    for wrong, says in (
        (pd.concat([frame, frame.iloc[[3999]]]), "1 of 4,001 times equal to the row before, the first in row 4,001"),
        (frame.drop(index=range(3996, 4000)).drop(index=range(3000, 3990)), "are shorter than a window"),
    ):
        _, path = write_frame(kind, wrong, tmp_path)
        with pytest.raises(UserError, match=says):
            [*open_stream(str(path), fitted[False])]
