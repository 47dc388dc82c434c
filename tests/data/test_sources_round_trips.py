import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from vae_study.config.data import CategoriesConfig, SplitConfig

from .files import function, labels, read, words, write_frame, write_idx, write_images

FRAMES = ["parquet", "folder", "csv", "csv.gz", "python"]
few = settings(max_examples=15)

reals = st.floats(width=32, allow_infinity=False)
# None of these letters makes a number, a truth value or a missing word; all of these signs must be quoted.
names = st.text('xyzÄ ,"\n', max_size=4)
label_kinds = st.sampled_from([st.integers(-3, 3), st.booleans(), st.sampled_from(["fraud", "fine"])])


@st.composite
def frames(draw):
    """Numbers, whole numbers, truth values and words with gaps, and a label."""
    count = draw(st.integers(1, 25))

    def column(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    # A column of nothing but spaces would be one of missing numbers.
    word = ["x" + draw(names), *column(st.none() | names)][:count]
    return pd.DataFrame(
        {
            "real": np.array(column(reals), np.float32),
            "whole": column(st.integers(-(2**24), 2**24)),
            "shop": pd.Series(word, dtype=object),
            "flag": column(st.booleans()),
            "label": column(draw(label_kinds)),
        }
    )


@few
@given(frames(), st.sampled_from(FRAMES))
def test_a_table_comes_back_as_it_was_written(frame, kind):
    with tempfile.TemporaryDirectory() as folder:
        source, path = write_frame(kind, frame, Path(folder))
        table = read(source, path, label="label")
    assert table.feature_names == ("real", "whole", "flag")
    # As text, 0.1 is not the float32 that it was written from.
    assert table.x_ND.dtype == np.float32 or kind.startswith("csv")
    np.testing.assert_array_equal(table.x_ND.astype(np.float32), frame[["real", "whole", "flag"]].to_numpy(np.float32))
    assert words(table, "shop") == frame["shop"].tolist()
    assert list(table.categories[0]) == sorted(set(frame["shop"].dropna()))
    assert labels(table) == frame["label"].tolist()
    assert [type(label) for label in table.labels] == [type(frame["label"].tolist()[0])] * len(table.labels)
    assert list(table.labels) == sorted(table.labels)
    assert table.has_binary_labels
    assert table.where == (source if path is None else str(path))


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_and_their_order_are_those_of_the_config(kind, tmp_path):
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "shop": ["x", "y"], "c": [5.0, 6.0]})
    source, path = write_frame(kind, frame, tmp_path)
    table = read(source, path, columns=("c", "shop", "a"))
    assert (table.feature_names, table.category_names) == (("c", "a"), ("shop",))
    assert table.x_ND.tolist() == [[5, 1], [6, 2]]
    assert (table.label_N, table.labels, table.split_N) == (None, (), None)


@pytest.mark.parametrize("kind", FRAMES)
def test_numbers_that_are_categories_read_the_same_whatever_their_width(kind, tmp_path):
    frame = pd.DataFrame({"merchant": [7.0, 12.0, None], "rate": [0.5, 2.0, 0.5], "flag": [True, False, True]})
    source, path = write_frame(kind, frame, tmp_path)
    table = read(source, path, categories=CategoriesConfig(columns=("merchant", "rate", "flag")))
    assert words(table, "merchant") == ["7", "12", None]
    assert words(table, "rate") == ["0.5", "2", "0.5"]
    assert [word.lower() for word in words(table, "flag")] == ["true", "false", "true"]
    assert table.x_ND.shape == (3, 0)


@pytest.mark.parametrize("kind", ["parquet", "folder", "python"])
def test_text_that_is_declared_a_category_keeps_its_zeros(kind, tmp_path):
    source, path = write_frame(kind, pd.DataFrame({"place": ["01", "1", "7"]}), tmp_path)
    assert words(read(source, path, categories=CategoriesConfig(columns=("place",))), "place") == ["01", "1", "7"]


# Pyarrow makes pandas warn where a frame with time zones is written.
@pytest.mark.filterwarnings("ignore:Series.values returning an ndarray that drops timezone")
@pytest.mark.parametrize("kind", FRAMES)
def test_times_are_nanoseconds_and_equal_groups_have_equal_numbers(kind, tmp_path):
    when = pd.to_datetime(["2024-03-01 10:00:00.5", "1969-12-31", "2024-03-01 10:00:00.6"], format="ISO8601")
    here, text = when.tz_localize("Europe/Berlin"), ["2024-01-03", "2024-01-01 12:00:00", "2024-01-03"]
    others = {"text": text, "card": ["b", "a", "b"], "step": [2.5, 1.0, 3.0]}
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "when": when, "here": here} | others)
    source, path = write_frame(kind, frame, tmp_path)

    def split(by, column):
        return read(source, path, columns=("x",), split=SplitConfig(by=by, column=column)).split_N

    assert split("time", "when").tolist() == when.as_unit("ns").asi8.tolist()
    assert split("time", "here").tolist() == here.as_unit("ns").asi8.tolist()
    assert split("time", "text").tolist() == pd.to_datetime(text, format="ISO8601").as_unit("ns").asi8.tolist()
    assert split("time", "when").dtype == np.int64
    assert split("time", "step").tolist() == [2.5, 1.0, 3.0]
    first, second, third = split("group", "card").tolist()
    assert first == third != second
    assert split("group", "when").dtype == np.int64


def test_types_of_a_csv_are_those_of_the_whole_file_not_of_its_first_block(tmp_path):
    path = tmp_path / "long.csv"
    early = '1,5,,"x\ny"\n' * 300_000
    path.write_text(f"a,b,c,d\n{early}2.5, 6 ,true,NA\nNA,,false,y\n")
    table = read("csv", path)
    assert table.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(table.x_ND[-3:], [[1, 5, np.nan], [2.5, 6, 1], [np.nan, np.nan, 0]])
    assert words(table, "d")[-3:] == ["x\ny", "NA", "y"]


def test_folders_named_by_key_and_value_are_columns(tmp_path):
    frame = pd.DataFrame(
        {"x": range(4), "year": [2023, 2024, 2023, 2024], "shop": ["a", "a", "b/c", None], "y": [0, 0, 1, 1]}
    )
    frame.to_parquet(tmp_path / "t", partition_cols=["year", "shop", "y"])
    (tmp_path / "t" / "_SUCCESS").touch()
    table = read("parquet", tmp_path / "t", label="y")
    order = table.x_ND[:, 0].astype(int)
    assert table.feature_names == ("x", "year")
    assert table.x_ND[:, 1].tolist() == frame["year"][order].tolist()
    assert words(table, "shop") == [None if pd.isna(shop) else shop for shop in frame["shop"][order]]
    assert labels(table) == frame["y"][order].tolist()
    assert read("parquet", tmp_path / "t", columns=("year",)).x_ND.shape == (4, 1)


def test_files_of_one_folder_may_differ_in_width_and_dictionary(tmp_path):
    kinds = [(pa.int8(), pa.int8(), ["b", "a"]), (pa.float64(), pa.int16(), ["c", "a"])]
    for number, (kind, places, shop) in enumerate(kinds):
        columns = {
            "x": pa.array([1, 2], kind),
            "shop": pa.array(shop).cast(pa.dictionary(places, pa.string())),
            "when": pa.array([1, 2], pa.int32()),
        }
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    table = read("parquet", tmp_path, split=SplitConfig(by="time", column="when"))
    assert table.x_ND.tolist() == [[1], [2], [1], [2]]
    assert words(table, "shop") == ["b", "a", "c", "a"]
    assert table.categories == (("a", "b", "c"),)


def test_a_column_in_the_files_goes_before_its_folder_s_name(tmp_path):
    (tmp_path / "year=2024").mkdir()
    pd.DataFrame({"x": [1.0], "year": [2023]}).to_parquet(tmp_path / "year=2024" / "0.parquet")
    assert read("parquet", tmp_path).x_ND.tolist() == [[1, 2023]]


def test_a_category_that_is_declared_and_never_occurs_is_none():
    frame = pd.DataFrame({"shop": pd.Categorical(["b", "a"], categories=["a", "b", "c"])})
    assert read(function(lambda: frame)).categories == (("a", "b"),)


def test_an_index_that_pandas_wrote_is_no_feature_unless_asked_for(tmp_path):
    frame = pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index([7, 9], name="id"))
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index_label="")
    for source in ("parquet", "csv"):
        table = read(source, tmp_path / f"t.{source}")
        assert table.feature_names == ("x",)
        assert "is an index" in table.notes[0]
    assert read("parquet", tmp_path / "t.parquet", columns=("id",)).x_ND.tolist() == [[7], [9]]


@few
@given(
    st.sampled_from([(3,), (3, 2), (1, 3, 2), (3, 3, 2), (5, 4, 1), (5, 4, 3)]).flatmap(
        lambda shape: arrays(np.float32, st.integers(1, 6).map(lambda count: (count, *shape)), elements=reals)
    ),
    st.sampled_from([("X", "y"), ("x", "y"), ("pixels", "kind")]),
    st.sampled_from([np.arange(6) % 2, np.array(list("abcabc"))]),
)
def test_arrays_come_back_from_an_npz(x, keys, label_N):
    label_N = label_N[: len(x)]
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "t.npz", **dict(zip(keys, (x, label_N), strict=True)))
        # Any numbers may be pixels here; most would rather be series of sensors.
        layout = "images" if x.ndim == 3 else None
        table = read("npz", Path(folder) / "t.npz", label=None if keys[1] == "y" else keys[1], layout=layout)
    is_last = x.ndim == 4 and x.shape[1] not in (1, 3)
    first = np.moveaxis(x, 3, 1) if is_last else x
    np.testing.assert_array_equal(table.x_ND, first.reshape(len(x), -1))
    shape = first.shape[2:] if first.ndim == 4 and first.shape[1] == 1 else first.shape[1:]
    assert table.image_shape == (None if x.ndim == 2 else shape)
    assert labels(table) == label_N.tolist()
    assert len(set(table.feature_names)) == table.x_ND.shape[1]


@few
@given(
    st.sampled_from(["u1", "i1", "i2", "i4", "f4"]),
    st.sampled_from([(4, 6), (4, 3, 2), (4, 5, 4, 3)]),
    st.sampled_from(["train-images-idx3-ubyte", "t10k-images.idx3-ubyte.gz"]),
    st.sampled_from(["implied", "named", "none"]),
)
def test_arrays_come_back_from_idx(kind, shape, name, labelled):
    x, label_N = np.arange(np.prod(shape)).reshape(shape).astype(kind), np.array([3, 1, 3, 0], np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = write_idx(Path(folder) / name, x)
        beside = path.with_name(name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1") + ".gz")
        if labelled != "none":
            write_idx(beside if labelled == "implied" else Path(folder) / "other", label_N)
        table = read("idx", path, label=str(Path(folder) / "other") if labelled == "named" else None)
    expected = np.moveaxis(x, 3, 1) if x.ndim == 4 else x
    np.testing.assert_array_equal(table.x_ND, expected.reshape(4, -1).astype(np.float32))
    assert table.image_shape == (None if x.ndim == 2 else expected.shape[1:])
    assert (None if table.label_N is None else labels(table)) == (None if labelled == "none" else [3, 1, 3, 0])
    assert not table.has_binary_labels


@few
@given(st.booleans(), st.booleans(), st.integers(1, 4), st.integers(1, 5), st.randoms(use_true_random=False))
def test_images_come_back_from_a_folder(is_colour, has_classes, height, width, random):
    shape = (height, width, 3) if is_colour else (height, width)
    generator = np.random.default_rng(random.getrandbits(32))
    folders = ["cats/", "dogs/", "10/"] if has_classes else [""]
    files = {
        f"{folder}{number}.png": generator.integers(0, 256, shape, np.uint8) for folder in folders for number in "13"
    }
    with tempfile.TemporaryDirectory() as folder:
        table = read("images", write_images(Path(folder), files))
    in_order = [files[name] for name in sorted(files)]
    expected = [np.moveaxis(image, 2, 0) if is_colour else image for image in in_order]
    np.testing.assert_array_equal(table.x_ND, np.array(expected).reshape(len(files), -1))
    assert table.image_shape == expected[0].shape
    assert table.notes == ()
    if has_classes:
        assert labels(table) == ["10", "10", "cats", "cats", "dogs", "dogs"]
    else:
        assert table.label_N is None


def test_a_pair_comes_back_from_a_function():
    x, y = np.eye(3), ["a", "b", "a"]
    for pair in ((x, y), (pd.DataFrame(x, columns=list("uvw")), pd.Series(y))):
        table = read(function(lambda pair=pair: pair))
        assert table.x_ND.tolist() == x.tolist()
        assert labels(table) == y
        assert table.has_binary_labels
    assert table.feature_names == ("u", "v", "w")
    assert read(function(lambda: (x, None))).label_N is None


def test_a_table_comes_back_from_a_function():
    made = read("digits")
    table = read(function(lambda: made))
    assert table.x_ND is made.x_ND
    assert table.where == "python:tests_made_module:made"
    assert not table.has_binary_labels


def test_a_function_is_found_in_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "my_own_data.py").write_text("import numpy as np\n\ndef load():\n    return np.ones((2, 2)), [0, 1]\n")
    monkeypatch.chdir(tmp_path)
    assert read("python:my_own_data:load").x_ND.shape == (2, 2)


@pytest.mark.parametrize("dtype", ["category", "string[pyarrow]", "Int64", "boolean", object])
def test_the_types_of_pandas_are_all_read(dtype):
    values = [True, None, False] if dtype == "boolean" else [1, None, 2] if dtype == "Int64" else ["a", None, "b"]
    series = pd.Series(values, dtype=dtype)
    table = read(function(lambda: pd.DataFrame({"c": pd.concat([series, series], ignore_index=True), "x": 1.0})))
    if dtype in ("Int64", "boolean"):
        assert table.x_ND[:3, 0].tolist() == pytest.approx([float(values[0]), np.nan, float(values[2])], nan_ok=True)
    else:
        assert words(table, "c") == values * 2
