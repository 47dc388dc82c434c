"""Folders of table formats, and arrays that are called or shaped otherwise."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, RobustScaler, StandardScaler
from vae_study.config.data import ArraysConfig, DataConfig
from vae_study.data import open_stream, prepare
from vae_study.data.dataset import info_from_plain

from .files import function, labels, read, refusal

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "a Delta Lake table (_delta_log)"),
        ("inner/_delta_log/00000000000000000000.json", "a Delta Lake table (inner/_delta_log)"),
        (".hoodie/hoodie.properties", "a Hudi table (.hoodie)"),
        ("metadata/v1.metadata.json", "an Iceberg table (metadata/v1.metadata.json)"),
        ("metadata/snap-1-1.avro", "an Iceberg table (metadata/snap-1-1.avro)"),
    ],
)
def test_a_folder_of_a_table_format_is_refused_by_its_name(made, kind, tmp_path):
    folder = tmp_path / "t"
    (folder / made).parent.mkdir(parents=True)
    (folder / made).write_text(json.dumps({}))
    (folder / "inner").mkdir(exist_ok=True)
    pd.DataFrame({"x": [1.0]}).to_parquet(folder / "inner" / "part-0.parquet")
    message = refusal("parquet", folder)
    assert message.startswith(f"data.path: got '{folder}', which is {kind}: some of its Parquet files may be replaced")


def test_a_folder_that_is_only_called_metadata_is_read(tmp_path):
    (tmp_path / "t" / "metadata").mkdir(parents=True)
    pd.DataFrame({"x": [1.0]}).to_parquet(tmp_path / "t" / "metadata" / "part-0.parquet")
    assert read("parquet", tmp_path / "t").x_ND.tolist() == [[1]]


def test_arrays_of_other_names_are_named(tmp_path):
    path = tmp_path / "t.npz"
    x_ND, y_N = RANDOM.normal(size=(50, 3)), np.arange(50) % 2
    np.savez(path, samples=x_ND, other=np.ones((50, 2)), target=y_N)
    assert "data.arrays: {x: ..., y: ...} names them" in refusal("npz", path)
    table = read("npz", path, arrays=ArraysConfig(x="samples", y="target"))
    assert table.x_ND.tolist() == x_ND.tolist()
    assert labels(table) == y_N.tolist()
    message = refusal("npz", path, arrays=ArraysConfig(x="sample"))
    assert message.endswith(
        "no array (of data.arrays.x) 'sample'; expected one of samples, other, target; did you mean 'samples'?"
    )
    data = prepare(DataConfig(source="npz", path=str(path), arrays=ArraysConfig(x="samples", y="target")))
    np.savez(tmp_path / "new.npz", samples=x_ND, other=np.ones((50, 2)))
    (batch,) = open_stream(str(tmp_path / "new.npz"), data.preprocessing)
    assert batch.x_ND.shape == (50, 3)


# Temperatures, pressures and vibrations: (N, T, F).
SENSORS = np.stack(
    [RANDOM.normal(20, 2, (80, 6)), RANDOM.normal(101_300, 200, (80, 6)), RANDOM.normal(0, 1e-3, (80, 6))], axis=2
)


def test_series_of_sensors_are_no_images_and_each_has_its_scale(tmp_path):
    np.savez(tmp_path / "t.npz", X=SENSORS)
    table = read("npz", tmp_path / "t.npz")
    assert table.image_shape is None
    assert table.notes[0].startswith("array 'X' of shape (80, 6, 3) was read as series of 6 steps of 3 sensors")
    assert "data.layout: images" in table.notes[0]
    data = prepare(DataConfig(source="npz", path=str(tmp_path / "t.npz")))
    train = data.splits["train"]
    flat_ND = SENSORS.reshape(80, -1)
    wide = MinMaxScaler().fit(SENSORS[train.row_N].reshape(-1, 3))
    expected = wide.transform(flat_ND[train.row_N].reshape(-1, 3)).reshape(-1, 18)
    np.testing.assert_allclose(train.x_ND, expected, atol=1e-6)
    assert data.feature_names[:4] == ("sensor_0_step_0", "sensor_1_step_0", "sensor_2_step_0", "sensor_0_step_1")
    (batch,) = open_stream(str(tmp_path / "t.npz"), data.preprocessing)
    np.testing.assert_array_equal(batch.x_ND[train.row_N], train.x_ND)
    # By themselves, these rows could be pixels.
    np.savez(tmp_path / "few.npz", X=np.zeros((2, 6, 3)))
    (batch,) = open_stream(str(tmp_path / "few.npz"), data.preprocessing)
    assert batch.x_ND.shape == (2, 18)


@pytest.mark.parametrize(
    ("scale", "reference"),
    [("standard", StandardScaler()), ("robust", RobustScaler()), ("quantile", QuantileTransformer(n_quantiles=500))],
)
def test_each_sensor_has_one_scale_over_rows_and_steps_as_scikit_learn_has_it(scale, reference, tmp_path):
    # A trend over the steps, and a step at which the second sensor always reads the same, stay visible.
    x = RANDOM.normal(size=(150, 6, 2)) * [1, 1000] + np.arange(6)[:, None] * [0.5, 0]
    x[:, 3, 1] = 2_500
    x[4:20, 2, 0] = np.nan
    np.savez(tmp_path / "t.npz", X=x)
    data = prepare(DataConfig(source="npz", path=str(tmp_path / "t.npz"), scale=scale, missing="median"))
    train = data.splits["train"]
    wide = reference.fit(x[train.row_N].reshape(-1, 2))
    expected = wide.transform(x[train.row_N].reshape(-1, 2)).reshape(-1, 12)
    own = [index for index, name in enumerate(data.feature_names) if not name.endswith("missing")]
    found = np.where(np.isnan(expected), np.nan, train.x_ND[:, own])
    np.testing.assert_allclose(found, expected, atol=2e-3 if scale == "quantile" else 1e-5)
    (batch,) = open_stream(str(tmp_path / "t.npz"), data.preprocessing)
    np.testing.assert_array_equal(batch.x_ND[train.row_N], train.x_ND)


def test_whole_numbers_of_19_digits_in_a_series_keep_all_of_them(tmp_path):
    first = 1_234_567_890_123_456_789
    steps = RANDOM.permutation(240).reshape(40, 3, 2)
    np.savez(tmp_path / "t.npz", X=first + steps)
    data = prepare(DataConfig(source="npz", path=str(tmp_path / "t.npz"), layout="series"))
    train = data.splits["train"]
    wide = MinMaxScaler().fit(steps[train.row_N].reshape(-1, 2))
    np.testing.assert_allclose(train.x_ND.reshape(-1, 2), wide.transform(steps[train.row_N].reshape(-1, 2)), atol=1e-6)
    np.savez(tmp_path / "u.npz", X=(first + steps)[::-1])
    (batch,) = open_stream(str(tmp_path / "u.npz"), data.preprocessing)
    np.testing.assert_array_equal(batch.x_ND[::-1][train.row_N], train.x_ND)


def test_the_steps_and_features_of_series_are_known_if_each_step_has_the_same_features(tmp_path):
    def shape(x):
        np.savez(tmp_path / "t.npz", X=x)
        data = prepare(DataConfig(source="npz", path=str(tmp_path / "t.npz"), layout="series"))
        assert info_from_plain(json.loads(json.dumps(data.plain()))).sequence_shape == data.sequence_shape
        return data.sequence_shape

    constant, once = SENSORS.copy(), SENSORS.copy()
    constant[:, :, 1] = 7
    once[:, 2, 1] = np.nan
    assert (shape(SENSORS), shape(constant)) == ((6, 3), (6, 3))
    assert prepare(DataConfig(source="breast_cancer")).sequence_shape is None
    np.savez(tmp_path / "t.npz", X=once)
    config = DataConfig(source="npz", path=str(tmp_path / "t.npz"), layout="series", missing="median")
    assert prepare(config).sequence_shape is None
    # Masked, they have, also sequences of different length that are filled up behind their ends.
    once[np.arange(6) >= RANDOM.integers(2, 7, len(once))[:, None]] = np.nan
    np.savez(tmp_path / "t.npz", X=once)
    data = prepare(config.model_copy(update={"missing": "mask"}))
    assert data.sequence_shape == (6, 3)
    train = data.splits["train"]
    np.testing.assert_array_equal(np.isnan(train.x_ND.reshape(-1, 6, 3)), np.isnan(once[train.row_N]))
    (batch,) = open_stream(str(tmp_path / "t.npz"), data.preprocessing)
    np.testing.assert_array_equal(batch.x_ND[train.row_N], train.x_ND)


@pytest.mark.parametrize("x", [np.round(SENSORS * 10), (SENSORS * 10).astype(np.int32)])
def test_whole_numbers_of_sensors_are_series(x):
    table = read(function(lambda: (x, None)))
    assert (table.image_shape, table.sensors) == (None, 3)
    assert "was read as series of 6 steps of 3 sensors, each with one scale for all steps" in table.notes[0]


@pytest.mark.parametrize(
    ("x", "note"),
    [
        (RANDOM.integers(0, 256, (9, 6, 4)).astype(np.uint8), None),
        (RANDOM.integers(0, 4_000, (9, 6, 4)), "was read as images of 6x4 pixels of one scale; data.layout: series"),
        (RANDOM.random((9, 6, 4)), "was read as images of 6x4 pixels of one scale; data.layout: series"),
        (RANDOM.normal(size=(90, 6, 4)), "was read as images of 6x4 pixels of one scale; data.layout: series"),
    ],
)
def test_what_may_be_images_is_images_and_a_guess_is_said(x, note):
    table = read(function(lambda: (x, None)))
    assert table.image_shape == (6, 4)
    assert (table.notes == ()) if note is None else (note in table.notes[0])
    assert read(function(lambda: (x, None)), layout="series").image_shape is None
    assert read(function(lambda: (SENSORS, None)), layout="images").image_shape == (6, 3)
