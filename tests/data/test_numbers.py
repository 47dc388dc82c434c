"""Numbers keep their information from the file to the scaled feature, and texts are compared as they are spelled."""

import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, StandardScaler
from vae_study.config.data import CategoriesConfig, DataConfig, SplitConfig
from vae_study.data import Preprocessing, frame_features, open_stream, prepare, read_table
from vae_study.data.sources.numbers import whole_less, widened
from vae_study.data.splits import duplicate_ids
from vae_study.errors import UserError

from .files import function, labels, read, words, write_frame
from .tables import frames

RANDOM = np.random.default_rng(0)
KINDS = ["parquet", "folder", "csv", "python"]
# Offsets at which float32 has steps of 128, 131,072 and 4e-6 degrees.
COLUMNS = {
    "counter": 2_000_000_000 + RANDOM.integers(0, 40, 200),
    "epoch_ms": 1_760_000_000_000 + RANDOM.integers(0, 60_000, 200),
    "latitude": 48.137154 + RANDOM.normal(0, 1e-6, 200),
}


def features(kind, frame, folder, **config):
    """The features of all rows, fitted on all of them, and what scoring makes of the same file."""
    source, path = write_frame(kind, frame, folder)
    config = DataConfig(source=source, path=None if path is None else str(path), **config)
    table = read_table(config)
    fitted = Preprocessing.fit(table, np.arange(len(table.x_ND)), config)
    scored_ND = np.concatenate([batch.x_ND for batch in open_stream(source if path is None else str(path), fitted)])
    x_ND = fitted.transform(table)
    np.testing.assert_array_equal(scored_ND, x_ND)
    np.testing.assert_array_equal(frame_features(frame, fitted), x_ND)
    return fitted, x_ND


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("scale", "reference"),
    [
        ("unit", MinMaxScaler()),
        ("standard", StandardScaler()),
        ("quantile", QuantileTransformer(n_quantiles=200)),
    ],
)
def test_counters_times_and_places_are_scaled_as_scikit_learn_scales_them(kind, scale, reference, tmp_path):
    frame = pd.DataFrame(COLUMNS)
    _, x_ND = features(kind, frame, tmp_path, scale=scale)
    # Scikit-learn multiplies by the inverse width: at an offset of 1e12 that costs it some digits.
    np.testing.assert_allclose(x_ND, reference.fit_transform(frame.to_numpy(np.float64)), atol=2e-4)
    assert [len(np.unique(column)) for column in x_ND.T] == frame.nunique().tolist()


@pytest.mark.parametrize(
    "dtype", [pa.int64(), pa.uint64(), pa.decimal128(38, 0), pa.decimal128(38, 3), pa.decimal256(50, 0)], ids=str
)
def test_numbers_of_19_digits_keep_all_of_them(dtype, tmp_path):
    values = [1_234_567_890_123_456_789 + step for step in (0, 3, 1, 40, 7, 2)]
    pq.write_table(
        pa.table({"x": pa.array(map(Decimal, values), pa.decimal128(38, 0)).cast(dtype)}), tmp_path / "t.parquet"
    )
    config = DataConfig(source="parquet", path=str(tmp_path / "t.parquet"))
    table = read_table(config)
    fitted = Preprocessing.fit(table, np.arange(6), config)
    exact = [float(Fraction(value - min(values), 40)) for value in values]
    assert fitted.transform(table)[:, 0].tolist() == np.array(exact, np.float32).tolist()
    assert fitted.inverse(fitted.transform(table))["x"].tolist() == values
    # Another file begins with another value and may have another type.
    pd.DataFrame({"x": np.array(values[::-1], np.int64)}).to_csv(tmp_path / "u.csv", index=False)
    (batch,) = open_stream(str(tmp_path / "u.csv"), fitted)
    assert batch.x_ND[:, 0].tolist() == np.array(exact[::-1], np.float32).tolist()
    np.savez(tmp_path / "u.npz", X=np.array(values[::-1])[:, None])
    made = DataConfig(source="npz", path=str(tmp_path / "u.npz"))
    array = read_table(made)
    again = Preprocessing.fit(array, np.arange(6), made).transform(array)
    assert again[:, 0].tolist() == batch.x_ND[:, 0].tolist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.integers(-(2**63), 2**64 - 1))
def test_whole_numbers_less_an_origin_are_what_python_makes_of_them(values, origin):
    # No type has numbers that are 2**64 apart.
    values = [value for value in values if abs(value - origin) < 2**64]
    found = whole_less(np.array(values, np.int64), origin)
    assert found.tolist() == [float(value - origin) for value in values]
    near = [origin + step for step in (0, 1, 77) if origin + step < 2**64]
    if origin >= 0:
        assert whole_less(np.array(near, np.uint64), origin).tolist() == [value - origin for value in near]


def test_what_float32_holds_exactly_stays_float32_and_the_rest_is_widened_in_place(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [0.5, 2.0], "b": [3, 4]}).to_parquet(path)
    assert read("parquet", path).x_ND.dtype == np.float32
    late = np.arange(100_001.0)
    late[-1] = 0.1
    pd.DataFrame({"a": late, "b": 1.0}).to_parquet(path)
    table = read("parquet", path)
    assert table.x_ND.dtype == np.float64
    assert table.x_ND[:, 0].tolist() == late.tolist()
    x_ND = np.arange(60_000, dtype=np.float32).reshape(20_000, 3).copy()
    expected = x_ND[:18_000].astype(np.float64)
    np.testing.assert_array_equal(widened(x_ND, 18_000)[:18_000], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_equal_as_pandas_says_and_not_as_float32_rounds(kind, tmp_path):
    frame = pd.DataFrame(
        {"t": [1_760_000_000_000, 1_760_000_000_001, 1_760_000_000_000, None], "x": [1.1, 1.1, 1.1, 0]}
    )
    table = read(*write_frame(kind, frame, tmp_path))
    assert duplicate_ids(table).tolist() == frame.groupby(["t", "x"], dropna=False, sort=False).ngroup().tolist()


def test_a_column_that_varies_by_rounding_only_has_one_value_and_whole_numbers_have_not():
    frame = pd.DataFrame({"noise": [0.1 + 0.2, 0.3] * 50, "whole": [9e15, 9e15 + 2] * 50, "x": np.arange(100.0)})
    data = prepare(DataConfig(source=function(lambda: frame)))
    assert data.feature_names == ("noise", "whole", "x")
    assert any("all training rows have 0.3 in 'noise'" in note for note in data.notes)
    assert all((split.x_ND[:, 0] == 0).all() and split.x_ND[:, 1].any() for split in data.splits.values())
    flat = pd.DataFrame({"counter": [2_000_000_037] * 100, "x": np.arange(100.0)})
    data = prepare(DataConfig(source=function(lambda: flat)))
    assert any("all training rows have 2000000037" in note for note in data.notes)


@pytest.mark.parametrize(
    "texts", [["0123", "123", "0123", "7"], ["1.10", "1.1", "1.1", "2.0"], ["+5", "5", "5", "1e3"]]
)
def test_ids_labels_and_categories_of_a_csv_are_what_pandas_reads_as_text(texts, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,id\n" + "".join(f"{row},{text}\n" for row, text in enumerate(texts)))
    expected = pd.read_csv(path, dtype=str)["id"]
    assert words(read("csv", path, categories=CategoriesConfig(columns=("id",))), "id") == expected.tolist()
    assert labels(read("csv", path, columns=("x",), label="id")) == expected.tolist()
    group_N = read("csv", path, columns=("x",), split=SplitConfig(by="group", column="id")).split_N
    assert pd.factorize(group_N)[0].tolist() == pd.factorize(expected)[0].tolist()


@pytest.mark.parametrize(
    "texts", [["0", "1", "1"], ["-1", "1", " 1"], ["0.0", "1.0", "1.0"], ["true", "false", "true"]]
)
def test_labels_that_are_written_as_numbers_are_numbers(texts, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{row},{text}\n" for row, text in enumerate(texts)))
    assert labels(read("csv", path, label="y")) == pd.read_csv(path, skipinitialspace=True)["y"].tolist()


@pytest.mark.parametrize("dtype", [pa.decimal128(38, 0), pa.decimal128(38, 2), pa.int64(), pa.string()], ids=str)
def test_ids_of_19_digits_are_told_apart_whatever_their_type(dtype, tmp_path):
    ids = [1_234_567_890_123_456_789, 1_234_567_890_123_456_788, 1_234_567_890_123_456_789]
    column = pa.array([*map(Decimal, ids)], pa.decimal128(38, 0)).cast(dtype)
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "id": column}), tmp_path / "t.parquet")
    split = SplitConfig(by="group", column="id")
    group_N = read("parquet", tmp_path / "t.parquet", columns=("x",), split=split).split_N
    assert pd.factorize(group_N)[0].tolist() == [0, 1, 0]
    table = read("parquet", tmp_path / "t.parquet", categories=CategoriesConfig(columns=("id",)))
    assert words(table, "id") == [*map(str, ids)]


def scored_words(model_kind, trained, scored_kind, scored, folder):
    """The categories that a model finds in scored rows; its own are trained with all values kept."""
    folders = [folder / "train", folder / "score"]
    for one in folders:
        one.mkdir()
    source, path = write_frame(model_kind, pd.DataFrame({"x": range(len(trained)), "c": trained}), folders[0])
    declared = CategoriesConfig(columns=("c",), rare=0)
    config = DataConfig(source=source, path=path and str(path), categories=declared, missing="median")
    table = read_table(config)
    fitted = Preprocessing.fit(table, np.arange(len(trained)), config)
    source, path = write_frame(scored_kind, pd.DataFrame({"x": range(len(scored)), "c": scored}), folders[1])
    (batch,) = open_stream(source if path is None else str(path), fitted)
    return fitted.inverse(batch.x_ND)["c"].tolist()


@pytest.mark.parametrize(
    ("model_kind", "trained", "scored_kind", "scored", "found"),
    [
        ("csv", ["0123", "123"], "csv", ["123", "0123", "00123"], ["123", "0123", "(rare)"]),
        ("csv", ["123", "7"], "csv", ["0123", "7"], ["(rare)", "7"]),
        ("csv", ["7", "8"], "parquet", [7, 8], ["7", "8"]),
        ("csv", ["7.0", "8.0"], "python", [7.0, 8.0], ["7.0", "8.0"]),
        ("parquet", [7.0, 8.5], "csv", ["7.0", "8.50"], ["7", "8.5"]),
        ("parquet", ["07", "7"], "csv", ["7", "07"], ["7", "07"]),
    ],
)
def test_a_scored_category_is_the_trained_one_of_the_same_spelling(
    model_kind, trained, scored_kind, scored, found, tmp_path
):
    assert scored_words(model_kind, trained, scored_kind, scored, tmp_path) == found


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int16])
def test_what_a_mask_covers_is_missing(dtype):
    x = np.arange(40).reshape(10, 4).astype(dtype)
    mask = np.zeros(x.shape, bool)
    mask[::3, 2] = True
    x[mask] = -9999
    table = read(function(lambda: (np.ma.masked_array(x, mask), None)))
    np.testing.assert_array_equal(table.x_ND, np.ma.masked_array(x, mask).astype(float).filled(np.nan))
    assert (x[mask] == -9999).all()


def test_a_masked_19_digit_column_begins_with_its_first_value_that_is_there():
    values = np.array([[-(2**63)], [2**60 + 1], [2**60 + 3]])
    table = read(function(lambda: (np.ma.masked_array(values, [[True], [False], [False]]), None)))
    assert table.origins == (2**60 + 1,)
    np.testing.assert_array_equal(table.x_ND[:, 0], [np.nan, 0, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_declared_marks_are_missing_values_in_training_and_scoring(kind, tmp_path):
    marked = pd.DataFrame({"a": ["?", "1.5", "2", "-"], "b": [-9999, 2, 3, 4], "c": ["u", "?", "u", "v"]})
    expected = pd.DataFrame({"a": [None, 1.5, 2, None], "b": [None, 2, 3, 4.0], "c": ["u", None, "u", "v"]})
    config = {"missing": "median", "categories": CategoriesConfig(rare=0)}
    _, x_ND = features(kind, marked, tmp_path, missing_values=("?", "-", -9999), **config)
    table = read(function(lambda: expected))
    np.testing.assert_array_equal(x_ND, Preprocessing.fit(table, np.arange(4), DataConfig(
        source="digits", **config)).transform(table))  # fmt: skip


@settings(max_examples=40)
@given(frames(), st.sampled_from(["unit", "standard", "robust", "quantile"]), st.sampled_from(["one_hot", "ordinal"]))
def test_a_table_gives_the_same_features_from_every_kind_of_file_in_training_and_in_scoring(frame, scale, encode):
    frame["always"] = np.arange(len(frame))
    config = {"scale": scale, "missing": "median", "categories": CategoriesConfig(encode=encode, rare=0)}
    found = {}
    for kind in ("parquet", "python", "csv"):
        with tempfile.TemporaryDirectory() as folder:
            if kind == "csv":
                frame.to_csv(Path(folder) / "t.csv", index=False)
                write = ("csv", str(Path(folder) / "t.csv"))
            else:
                source, path = write_frame(kind, frame, Path(folder))
                write = (source, None if path is None else str(path))
            made = DataConfig(source=write[0], path=write[1], **config)
            table = read_table(made)
            fitted = Preprocessing.fit(table, np.arange(len(frame)), made)
            found[kind] = fitted.transform(table)
            stream = open_stream(write[1] or write[0], fitted)
            np.testing.assert_array_equal(np.concatenate([batch.x_ND for batch in stream]), found[kind])
            np.testing.assert_array_equal(frame_features(frame, fitted), found[kind])
    np.testing.assert_array_equal(found["parquet"], found["csv"])
    np.testing.assert_array_equal(found["parquet"], found["python"])
    x_ND = frame.drop(columns="word").to_numpy(np.float64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.npz"
        np.savez(path, X=x_ND)
        made = DataConfig(source="npz", path=str(path), scale=scale, missing="median")
        table = read_table(made)
        fitted = Preprocessing.fit(table, np.arange(len(frame)), made)
        array_ND = fitted.transform(table)
        stream = open_stream(str(path), fitted)
        np.testing.assert_array_equal(np.concatenate([batch.x_ND for batch in stream]), array_ND)
    # The numbers come before the categories.
    np.testing.assert_array_equal(np.delete(array_ND, [], axis=1), found["parquet"][:, : array_ND.shape[1]])


@pytest.mark.parametrize("kind", KINDS)
def test_what_float32_rounds_to_its_largest_number_is_not_too_large_for_it(kind, tmp_path):
    largest, overflow = np.finfo(np.float32).max, 2.0**128 * (1 - 2.0**-25)
    # A CSV has the largest float32 as 3.4028235e+38, which is more than it.
    for value in (largest, float(str(largest)), np.nextafter(overflow, 0)):
        source, path = write_frame(kind, pd.DataFrame({"x": [0.0, value]}), tmp_path)
        assert read(source, path).x_ND.astype(np.float32).ravel().tolist() == [0, largest]
    source, path = write_frame(kind, pd.DataFrame({"x": [0.0, overflow]}), tmp_path)
    with pytest.raises(UserError, match="1 of 2 values is too large for float32"):
        read(source, path)
