import shutil

import numpy as np
import pandas as pd
import pytest
from vae_study.config.data import DataConfig
from vae_study.data import Preprocessing, frame_features, open_stream, read_table
from vae_study.data.table import Table
from vae_study.errors import UserError

from .files import function, write_frame, write_idx, write_images

FRAME = pd.DataFrame({"a": [1.0, 2.0, 4.0], "shop": ["x", "y", "x"]})
RANDOM = np.random.default_rng(0)


def fit(config):
    """A model's preprocessing, and the features of all rows in training."""
    table = read_table(config)
    preprocessing = Preprocessing.fit(table, np.arange(len(table.x_ND)), config)
    return preprocessing, preprocessing.transform(table)


def model_of(made):
    """The same of what a function returns."""
    return fit(DataConfig(source=function(lambda: made)))


def features(*arguments, **options):
    return np.concatenate([batch.x_ND for batch in open_stream(*arguments, **options)])


def refusal(*arguments, **options):
    with pytest.raises(UserError) as caught:
        features(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_the_bundled_sets_go_by_their_names(name):
    preprocessing, expected_ND = fit(DataConfig(source=name))
    np.testing.assert_array_equal(features(name, preprocessing), expected_ND)
    np.testing.assert_array_equal(features(name, preprocessing, source=name), expected_ND)


def test_images_are_read_some_at_a_time_and_gray_ones_as_the_model_had_them(tmp_path, monkeypatch):
    monkeypatch.setattr("vae_study.data.stream.batch_rows", lambda columns: 2)
    gray = {f"b/{number}.png": RANDOM.integers(0, 256, (3, 2), np.uint8) for number in range(3)}
    colour = {f"a/{number}.png": RANDOM.integers(0, 256, (3, 2, 3), np.uint8) for number in range(2)}
    place = str(write_images(tmp_path / "all", colour | gray))
    preprocessing, expected_ND = fit(DataConfig(source="images", path=place))
    stream = open_stream(place, preprocessing)
    assert (stream.count, [batch.first for batch in stream]) == (5, [0, 2, 4])
    files = [name for batch in stream for name in batch.keys["file"].to_pylist()]
    assert files == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"]
    np.testing.assert_array_equal(features(place, preprocessing), expected_ND)
    only_gray = str(write_images(tmp_path / "gray", {name.removeprefix("b/"): image for name, image in gray.items()}))
    np.testing.assert_array_equal(features(only_gray, preprocessing), expected_ND[2:])
    gray_model, _ = fit(DataConfig(source="images", path=only_gray))
    assert "got images of 3x3x2, expected images of 3x2 pixels" in refusal(place, gray_model)


def test_pixels_may_come_as_the_columns_of_a_table(tmp_path):
    x = RANDOM.integers(0, 256, (4, 2, 3)).astype(np.float32)
    preprocessing, expected_ND = model_of((x, None))
    frame = pd.DataFrame(x.reshape(4, 6), columns=list(preprocessing.feature_names))
    np.testing.assert_array_equal(frame_features(frame[frame.columns[::-1]], preprocessing), expected_ND)
    frame.to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_array_equal(features(str(tmp_path / "t.csv"), preprocessing), expected_ND)
    with pytest.raises(UserError, match="column 'pixel_0_1': no value in row 2"):
        frame_features(frame.assign(pixel_0_1=[1, np.nan, 2, 3]), preprocessing)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-images.idx3-ubyte.gz", "x.idx"])
def test_idx_needs_no_labels(name, tmp_path):
    x = RANDOM.integers(0, 256, (5, 3, 2)).astype("u1")
    place = str(write_idx(tmp_path / name, x))
    (tmp_path / name.replace("images", "labels").replace("idx3", "idx1")).touch()
    write_idx(tmp_path / name, x)
    preprocessing, expected_ND = model_of((x, None))
    np.testing.assert_array_equal(features(place, preprocessing), expected_ND)


def test_functions_may_return_all_that_they_may_in_training():
    table = read_table(DataConfig(source="breast_cancer"))
    x_ND = RANDOM.normal(size=(5, 2))
    for made in (FRAME, (FRAME, [1, 2, None]), (x_ND, [None] * 5), table):
        trained = FRAME if isinstance(made, tuple) and made[0] is FRAME else made
        trained = (x_ND, None) if isinstance(made, tuple) and made[0] is x_ND else trained
        preprocessing, expected_ND = model_of(trained)
        np.testing.assert_array_equal(features(function(lambda made=made: made), preprocessing), expected_ND)
    assert "returned int, expected a pandas DataFrame" in refusal(function(lambda: 7), preprocessing)
    torn = Table(x_ND=np.ones((2, 2), np.float32), feature_names=("a",), where="")
    assert "returned a Table, expected a name" in refusal(function(lambda: torn), preprocessing)


def test_a_table_of_a_function_may_have_categories():
    table = read_table(DataConfig(source=function(lambda: FRAME)))
    preprocessing, expected_ND = model_of(table)
    np.testing.assert_array_equal(features(function(lambda: table), preprocessing), expected_ND)


def test_arrays_have_no_keys_and_must_have_the_model_s_features(tmp_path):
    preprocessing, _ = model_of((RANDOM.normal(size=(5, 3)), None))
    np.savez(tmp_path / "t.npz", X=np.ones((4, 2)))
    place = str(tmp_path / "t.npz")
    said = refusal(place, preprocessing, keys=["id"])
    assert said == f"{place}: has no columns, so none that could be a key; got the key 'id'"
    assert refusal(place, preprocessing) == (
        f"{place}: no column 'x2'; expected every column that the model was trained on"
    )


@pytest.mark.parametrize("kind", ["parquet", "folder", "csv", "csv.gz"])
def test_tables_are_also_read_from_a_bucket(kind, tmp_path, bucket):
    from pyarrow.fs import FileSystem, copy_files

    preprocessing, expected_ND = model_of(FRAME)
    _, path = write_frame(kind, FRAME, tmp_path)
    system, root = FileSystem.from_uri(f"{bucket}/{kind}")
    system.create_dir(root)
    copy_files(str(path), f"{root}/{path.name}", destination_filesystem=system)
    np.testing.assert_array_equal(features(f"{bucket}/{kind}/{path.name}", preprocessing), expected_ND)
    assert "there is no 'nix.parquet'" in refusal(f"{bucket}/{kind}/nix.parquet", preprocessing)


def test_the_kind_of_a_file_is_told_from_its_name_or_said(tmp_path):
    preprocessing, expected_ND = model_of(FRAME)
    FRAME.to_parquet(tmp_path / "t.PQ")
    FRAME.to_csv(tmp_path / "t.CSV", index=False)
    for name, kind in (("t.PQ", "parquet"), ("t.CSV", "csv")):
        np.testing.assert_array_equal(features(str(tmp_path / name), preprocessing), expected_ND)
        bare = shutil.copy(tmp_path / name, tmp_path / kind)
        np.testing.assert_array_equal(features(str(bare), preprocessing, source=kind), expected_ND)
        message = refusal(str(bare), preprocessing)
        assert message.startswith(
            f"DATA: got {str(bare)!r}, whose kind its name does not tell; expected, or as --source"
        )
        assert "parquet, csv, npz, idx, images, digits, breast_cancer, mnist_sample, python:package.m" in message


def test_a_folder_of_neither_tables_nor_images_is_of_no_known_kind(tmp_path):
    preprocessing, _ = model_of(FRAME)
    (tmp_path / "notes.txt").touch()
    assert "whose kind its name does not tell" in refusal(str(tmp_path), preprocessing)
    assert "DATA: got the source 'excel'; expected" in refusal(str(tmp_path), preprocessing, source="excel")
    assert "DATA: got 'no/where.csv', but there is no 'no'" in refusal("no/where.csv", preprocessing)


def test_a_kind_must_fit_its_place(tmp_path):
    preprocessing, _ = model_of(FRAME)
    FRAME.to_csv(tmp_path / "t.csv")
    for source in ("csv", "npz", "idx"):
        message = refusal(str(tmp_path), preprocessing, source=source)
        assert message == f"DATA: got {str(tmp_path)!r}, which is a folder; expected a file for source {source}"
    said = refusal(str(tmp_path / "t.csv"), preprocessing, source="images")
    assert said.endswith("which is a file; expected a folder for source images")
    uri = f"file://{tmp_path / 't.csv'}"
    assert refusal(uri, preprocessing, source="npz").endswith("expected a place on this machine for source npz")
