import gzip
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyarrow import csv
from vae_study.config.data import CategoriesConfig, DataConfig
from vae_study.data import Preprocessing, frame_features, open_stream, read_table
from vae_study.errors import UserError

from .files import function, write_frame

few = settings(max_examples=40)
FRAMES = ["parquet", "folder", "csv", "csv.gz", "python"]
gappy = st.none() | st.floats(-1e30, 1e30, width=64)
# Of some, float64 would round before float32 does.
whole = st.integers(-(2**62), 2**62) | st.integers(-3, 3)
words = st.none() | st.sampled_from(["a", "b", "NA x", "é,", 'q"', "true 7"])
# What a reader without types may take for whole numbers, for numbers, for truth values, for gaps or for words.
CELLS = [
    "7",
    "07",
    " 7",
    "7.0",
    "1e3",
    "0.5",
    "-0",
    "9007199254740993",
    "NA",
    "",
    " ",
    "true",
    "False",
    "x",
    "inf ",
    "+1",
]
scales = st.sampled_from(["unit", "standard", "quantile", "none"])


@contextmanager
def small_blocks(size):
    """Batches of few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_study.data.sources.csv._READ", csv.ReadOptions(block_size=size, use_threads=False))
        for module in ("vae_study.data.sources.parquet", "vae_study.data.sources.python"):
            patch.setattr(f"{module}.batch_rows", lambda columns: 3)
        yield


@st.composite
def frames(draw):
    """Numbers and categories of all kinds, with gaps."""
    count = draw(st.integers(2, 25))

    def column(values, dtype=object):
        return pd.Series(draw(st.lists(values, min_size=count, max_size=count)), dtype=dtype)

    return pd.DataFrame(
        {
            "real": column(gappy, float),
            "whole": column(whole, np.int64),
            "flag": column(st.booleans(), bool),
            "word": column(words),
            "merchant": column(st.integers(-2, 2), np.int64),
            "rate": column(st.none() | st.sampled_from([0.5, 2.0, 1e22]), float),
            "sure": column(st.booleans(), bool),
            "kind": pd.Categorical(column(st.none() | st.sampled_from(["u", "v"]))),
            "label": column(st.sampled_from(["0", "x", ""])),
        }
    )


def config_of(source, path, **changes):
    forced = CategoriesConfig(columns=("merchant", "rate", "sure", "word"), rare=changes.pop("rare", 0))
    columns = ("word", "rate", "real", "whole", "flag", "merchant", "sure", "kind")
    given = {"columns": columns, "categories": forced, "missing": "median"} | changes
    return DataConfig(source=source, path=None if path is None else str(path), **given)


def fitted(table, config, rows=None):
    """What train says, where it says anything."""
    try:
        return Preprocessing.fit(table, np.arange(len(table.x_ND) if rows is None else rows), config)
    except UserError as error:
        assume("no column has several values" not in str(error))
        raise


def features(stream):
    """All rows of a stream, which come in their order."""
    batches = list(stream)
    assert [batch.first for batch in batches] == np.cumsum([0, *(len(b.x_ND) for b in batches)])[:-1].tolist()
    assert all(batch.x_ND.dtype == np.float32 for batch in batches)
    return np.concatenate([batch.x_ND for batch in batches])


def opened(source, path, preprocessing, **options):
    """A stream of what a test wrote."""
    return open_stream(source if path is None else str(path), preprocessing, **options)


def refusal(make, *arguments, **options):
    """What the user is told in place of features."""
    with pytest.raises(UserError) as caught:
        list(make(*arguments, **options))
    return str(caught.value)


@few
@given(frames(), st.sampled_from(FRAMES), scales, st.sampled_from(["one_hot", "ordinal"]), st.data())
def test_rows_of_the_training_source_become_the_very_same_features(frame, kind, scale, encode, data):
    first, last = sorted(data.draw(st.lists(st.integers(0, len(frame)), min_size=2, max_size=2, unique=True)))
    some = data.draw(st.sampled_from(FRAMES))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        config = config_of(*write_frame(kind, frame, Path(folder)), scale=scale)
        config = config.model_copy(update={"categories": config.categories.model_copy(update={"encode": encode})})
        table = read_table(config)
        preprocessing = fitted(table, config, data.draw(st.integers(1, len(frame))))
        expected_ND = preprocessing.transform(table)
        with small_blocks(256):
            stream = opened(config.source, config.path, preprocessing)
            np.testing.assert_array_equal(features(stream), expected_ND)
            np.testing.assert_array_equal(features(stream), expected_ND)
            # By themselves, some of the rows may look like columns of other types.
            part = opened(*write_frame(some, frame[first:last], Path(other)), preprocessing)
            np.testing.assert_array_equal(features(part), expected_ND[first:last])
            np.testing.assert_array_equal(frame_features(frame[first:last], preprocessing), expected_ND[first:last])
    assert stream.count == (None if kind.startswith("csv") else len(frame))


@settings(max_examples=150)
@given(st.lists(st.sampled_from(CELLS), min_size=2, max_size=8), st.lists(st.sampled_from(CELLS), max_size=2))
def test_a_text_that_may_be_a_number_is_the_category_that_training_made_of_it(cells, others):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_text("x,c\n" + "".join(f"{place},{cell}\n" for place, cell in enumerate(cells)))
        config = DataConfig(
            source="csv", path=str(path), missing="median", categories=CategoriesConfig(columns=("c",), rare=0)
        )
        table = read_table(config)
        preprocessing = fitted(table, config)
        for cell, expected_D in zip(cells, preprocessing.transform(table), strict=True):
            path.write_text("x,c\n" + "".join(f"0,{other}\n" for other in (*others, cell)))
            np.testing.assert_array_equal(features(open_stream(str(path), preprocessing))[-1, 1:], expected_D[1:])


@pytest.mark.parametrize("first", ["7", "0.5", "288230376151711744"])
def test_large_whole_numbers_are_what_training_made_of_them_whatever_stands_in_their_batch(first, tmp_path):
    cells = [first, *["NA"] * 200, str(2**58 + 2**34), str(2**58)]
    path = tmp_path / "t.csv"
    path.write_text("x\n" + "\n".join(cells) + "\n")
    config = DataConfig(source="csv", path=str(path), missing="median", scale="unit")
    table = read_table(config)
    preprocessing = fitted(table, config)
    assert table.x_ND[-2, 0] != table.x_ND[-1, 0]
    with small_blocks(64):
        stream = open_stream(str(path), preprocessing)
        assert len(list(stream)) > 1
        np.testing.assert_array_equal(features(stream), preprocessing.transform(table))


def test_of_categories_that_are_words_one_that_looks_like_a_number_is_a_word_too(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("c\n7\nx\nNA\n07\n7.0\n")
    known = pd.DataFrame({"c": ["7", "7", "x", "x", "rare"]})
    config = DataConfig(source=function(lambda: known), categories=CategoriesConfig(columns=("c",), rare=0.3))
    preprocessing = fitted(read_table(config), config)
    shown = preprocessing.inverse(features(open_stream(str(path), preprocessing)))["c"]
    assert shown.tolist() == ["7", "x", "(rare)", "(rare)", "(rare)"]


@few
@given(st.data(), st.sampled_from(["X", "pixels"]), st.sampled_from([(3,), (2, 2), (3, 2, 2)]))
def test_arrays_and_bundled_sets_are_cut_into_batches(data, name, shape):
    x = data.draw(st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).normal(size=(9, *shape))))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_study.data.stream.batch_rows", lambda columns: 4)
        # Labels that training would refuse are nobody's concern here.
        np.savez(Path(folder) / "t.npz", **{name: x, "y": np.array([None] * 3, object).astype(str)[:2]})
        config = DataConfig(source="npz", path=str(Path(folder) / "u.npz"))
        np.savez(config.path, X=x)
        preprocessing = fitted(read_table(config), config, 5)
        stream = open_stream(str(Path(folder) / "t.npz"), preprocessing)
        np.testing.assert_array_equal(features(stream), preprocessing.transform(read_table(config)))
        assert (stream.count, len(list(stream))) == (9, 3)


@few
@given(st.lists(st.none() | st.sampled_from(["a", "b", "new", "7", "True", ""]), min_size=1, max_size=9))
def test_categories_that_training_has_not_shown_are_rare_ones(values):
    known = pd.DataFrame({"c": ["a", "a", "b", None]})
    config = DataConfig(source=function(lambda: known), missing="median", categories=CategoriesConfig(rare=0.3))
    preprocessing = fitted(read_table(config), config)
    frame = pd.DataFrame({"c": pd.Series(values, dtype=object)})
    shown = preprocessing.inverse(frame_features(frame, preprocessing))["c"]
    expected = [value if value in ("a", None) else "(rare)" for value in values]
    assert [None if pd.isna(value) else value for value in shown] == expected


def table_model(**config):
    """A model of two numbers and a category."""
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [0.5, 1.5, 2.0], "shop": ["x", "y", "x"]})
    made = DataConfig(source=function(lambda: frame), **config)
    return frame, fitted(read_table(made), made)


@pytest.mark.parametrize("kind", FRAMES)
def test_only_the_model_s_columns_and_the_keys_are_read_in_any_order(kind, tmp_path):
    frame, preprocessing = table_model()
    expected_ND = frame_features(frame, preprocessing)
    wide = frame[["shop", "b", "a"]].assign(
        id=[2**60 + 1, 7, 8], when=pd.to_datetime(["2024-01-01"] * 3), odd=["1", "NA", "x"], label=[0, 1, 0]
    )
    source, path = write_frame(kind, wide, tmp_path)
    stream = opened(source, path, preprocessing, keys=["id", "odd"])
    np.testing.assert_array_equal(features(stream), expected_ND)
    keys = pa.concat_tables([batch.keys for batch in stream])
    assert keys.column_names == ["id", "odd"]
    assert keys["id"].to_pylist() == [str(key) if kind.startswith("csv") else key for key in wide["id"]]
    assert keys["odd"].to_pylist() == wide["odd"].tolist()
    (batch,) = opened(source, path, preprocessing)
    assert batch.keys.num_columns == 0


@pytest.mark.parametrize("kind", FRAMES)
def test_what_is_wrong_with_a_table_is_said_with_its_column_and_row(kind, tmp_path):
    frame, preprocessing = table_model()

    def said(changed):
        (folder := tmp_path / str(len(list(tmp_path.iterdir())))).mkdir()
        source, path = write_frame(kind, changed, folder)
        message = refusal(opened, source, path, preprocessing)
        where = source if path is None else str(path)
        assert message.startswith(f"{where}: ")
        return message.removeprefix(f"{where}: ")

    long = pd.concat([frame] * 4, ignore_index=True)
    assert said(frame[["b"]]) == (
        "no column 'a', no column 'shop'; expected every column that the model was trained on"
    )
    gap = said(long.assign(a=[1.0, None, 2.0, None] * 3, shop="x"))
    assert gap.startswith("column 'a': no value in rows 2, 4")
    # A batch does not know of the gaps of those after it, and each file is one.
    assert gap.split("; ")[0].endswith("rows 2, 4" if kind == "folder" else "rows 2, 4, 6, ...")
    assert gap.endswith("; expected none, as in the training data (data.missing: refuse)")
    assert said(long.assign(shop=[None, *long["shop"][1:]])).startswith("column 'shop': no value in row 1;")
    text = said(long.assign(a=["1"] * 10 + ["n/a", "1"]))
    assert text == "column 'a': got 'n/a' in row 11; expected numbers"
    assert said(long.assign(b=[np.inf] + [1.0] * 11)) == "column 'b': infinite in row 1; expected finite numbers"
    large = said(long.assign(b=[1.0] * 11 + [1e39]))
    assert large == "column 'b': too large for float32 in row 12; expected at most 3.4e38 in size"
    if kind != "folder":
        assert said(frame[:0]) == "holds no rows; expected at least one"
    if not kind.startswith("csv"):
        assert said(frame.assign(shop=[1, 2, 3])) == (
            "column 'shop' holds numbers, expected categories; expected every column that the model was trained on"
        )
        assert "got times" in said(frame.assign(a=pd.to_datetime(["2024-01-01"] * 3)))
    if kind in ("parquet", "python"):
        kinds = said(frame.assign(a=pd.Categorical(["1", "2", "3"])))
        assert kinds.startswith("column 'a' holds categories, expected numbers;")


def test_a_key_must_be_a_column(tmp_path):
    frame, preprocessing = table_model()
    frame.assign(id=1).to_parquet(tmp_path / "t.parquet")
    place = str(tmp_path / "t.parquet")
    assert "no column (of the keys) 'ids'; expected one of a, b, shop, id; did you mean 'id'?" in refusal(
        open_stream, place, preprocessing, keys=["ids"]
    )
    assert "column 'id': occurs 2 times in the keys" in refusal(open_stream, place, preprocessing, keys=["id", "id"])
    assert [batch.keys.column_names for batch in open_stream(place, preprocessing, keys=["a"])] == [["a"]]


def test_keys_are_of_one_type_though_the_files_of_a_folder_differ(tmp_path):
    frame, preprocessing = table_model()
    for number, kind in enumerate([pa.int32(), pa.int64()]):
        table = pa.Table.from_pandas(frame).append_column("id", pa.array([1, 2, 3], kind))
        word = pa.array(["u", "v", "u"]).cast(pa.dictionary(pa.int8(), pa.string()))
        pq.write_table(table.append_column("word", word), tmp_path / f"{number}.parquet")
    stream = open_stream(str(tmp_path), preprocessing, keys=["id", "word"])
    assert {tuple(batch.keys.schema.types) for batch in stream} == {(pa.int64(), pa.string())}
    assert (stream.count, features(stream).shape) == (6, (6, 4))


def test_folders_named_by_key_and_value_are_read_as_the_model_takes_them(tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, 5.0], "shop": ["01", "b", "b", "c"], "year": [2023, 2024, 2023, 2024]})
    frame.to_parquet(tmp_path / "t", partition_cols=["year", "shop"])
    config = DataConfig(source="parquet", path=str(tmp_path / "t"), categories=CategoriesConfig(rare=0))
    table = read_table(config)
    preprocessing = fitted(table, config)
    stream = open_stream(config.path, preprocessing, keys=["year"])
    np.testing.assert_array_equal(features(stream), preprocessing.transform(table))
    keys = pa.concat_tables([batch.keys for batch in stream])
    assert keys["year"].to_pylist() == ["2023", "2023", "2024", "2024"]
    # By itself, this folder's name would read as the number 1.
    (tmp_path / "u" / "year=2023").mkdir(parents=True)
    (tmp_path / "t" / "year=2023" / "shop=01").rename(tmp_path / "u" / "year=2023" / "shop=01")
    alone_ND = features(open_stream(str(tmp_path / "u"), preprocessing))
    np.testing.assert_array_equal(alone_ND, preprocessing.transform(table)[:1])
    assert preprocessing.inverse(alone_ND)["shop"].tolist() == ["01"]


def test_a_source_that_has_fewer_rows_than_it_said_is_torn():
    frame, preprocessing = table_model()
    stream = opened(function(lambda: frame), None, preprocessing)
    torn = replace(stream, count=4)
    assert refusal(lambda: torn).endswith("holds 3 rows, expected 4; is it still being written?")


def test_a_compressed_csv_of_many_blocks_is_one_stream(tmp_path):
    _, preprocessing = table_model()
    lines = "".join(f"{row % 5},{row / 3},x\n" for row in range(300_000))
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(f"a,b,shop\n{lines}".encode(), 1))
    stream = open_stream(str(tmp_path / "t.csv.gz"), preprocessing)
    frame = pd.DataFrame({"a": np.arange(300_000) % 5, "b": np.arange(300_000) / 3, "shop": "x"})
    np.testing.assert_array_equal(features(stream), frame_features(frame, preprocessing))
    assert len(list(stream)) > 1
