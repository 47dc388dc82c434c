"""Known factors of variation: read as labels are, never features, kept row by row."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from vae_study.config.data import DataConfig
from vae_study.data import SPLIT_NAMES, build_dataset, prepare
from vae_study.data.cache import _open_entry
from vae_study.data.sources import sources
from vae_study.data.sources.source import Examples, ModelInput
from vae_study.data.table import Factor, Table, fingerprint

from tests.data.files import read, refusal, write_frame, write_images

ROWS = 60


def frame() -> pd.DataFrame:
    """Two features, the row's own number among them, and three factors that follow from it."""
    number_N = np.arange(ROWS)
    return pd.DataFrame(
        {
            "own": number_N.astype(float),
            "other": np.sin(number_N),
            "shape": np.array(["square", "heart", "ellipse"])[number_N % 3],
            "scale": number_N % 5 / 4,
            "angle": number_N * 1.5,
        }
    )


def value_of(factor: Factor) -> list[float | str]:
    return [factor.values[code] for code in factor.code_N]


def assert_factors(table: Table, expected: pd.DataFrame) -> None:
    assert [factor.name for factor in table.factors] == ["shape", "scale", "angle"]
    for factor in table.factors:
        assert value_of(factor) == expected[factor.name].tolist()
        assert factor.is_number == (factor.name != "shape")


@pytest.mark.parametrize("kind", ["parquet", "csv", "function"])
def test_columns_are_factors_and_no_features(kind: str, tmp_path: Path):
    source, path = write_frame(kind, frame(), tmp_path)
    table = read(source, path, factors=("shape", "scale", "angle"))
    assert_factors(table, frame())
    assert (table.feature_names, table.category_names) == (("own", "other"), ())


def test_numbers_of_a_factor_are_read_as_numbers_however_they_are_spelled(tmp_path: Path):
    (tmp_path / "t.csv").write_text("x,size\n1,1.10\n2,0.50\n3,1.1\n")
    (factor,) = read("csv", tmp_path / "t.csv", factors=("size",)).factors
    assert (factor.values, factor.code_N.tolist()) == ((0.5, 1.1), [1, 0, 1])


def test_arrays_of_an_npz_are_factors(tmp_path: Path):
    of = frame()
    arrays = {name: of[name].to_numpy() for name in ("scale", "angle")} | {"shape": of["shape"].to_numpy(str)}
    np.savez(tmp_path / "t.npz", pictures=np.zeros((ROWS, 4, 4), np.uint8), **arrays)
    table = read("npz", tmp_path / "t.npz", factors=("shape", "scale", "angle"))
    assert_factors(table, of)
    assert table.image_shape == (4, 4)


def test_a_factor_called_x_or_y_is_neither_the_features_nor_the_label(tmp_path: Path):
    np.savez(tmp_path / "t.npz", pictures=np.zeros((3, 4, 4), np.uint8), x=np.arange(3), y=np.arange(3))
    table = read("npz", tmp_path / "t.npz", factors=("x", "y"))
    assert (table.label_N, table.image_shape) == (None, (4, 4))
    (source,) = (one for one in sources().values() if one.name == "npz")
    model = ModelInput(columns=(), image_shape=(4, 4), origins={})
    opened = source.open(DataConfig(source="npz", path=str(tmp_path / "t.npz")), model)
    assert isinstance(opened, Examples)
    assert opened.shape == (3, 16)


def test_names_of_folders_and_images_tell_factors(tmp_path: Path):
    names = [
        f"shape={shape},scale={scale}/angle={angle},{n:03}.png"
        for n, (shape, scale, angle) in enumerate(frame()[["shape", "scale", "angle"]].itertuples(index=False))
    ]
    pictures = {name: np.full((3, 3), n, np.uint8) for n, name in enumerate(names)}
    table = read("images", write_images(tmp_path / "pictures", pictures), factors=("shape", "scale", "angle"))
    rows = [names.index(file) for file in table.files]
    assert_factors(table, frame().iloc[rows])


@pytest.mark.parametrize("is_cached", [False, True])
def test_every_split_has_the_factors_of_its_rows(is_cached: bool, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("VAE_STUDY_CACHE", str(tmp_path / "cache"))
    frame().to_parquet(tmp_path / "t.parquet")
    names = ("shape", "scale", "angle")
    config = DataConfig(source="parquet", path=str(tmp_path / "t.parquet"), factors=names)
    if is_cached:
        prepare(config)
        _open_entry.cache_clear()
    table = read("parquet", tmp_path / "t.parquet", factors=names)
    data = prepare(config) if is_cached else build_dataset(table, config)
    for split in SPLIT_NAMES:
        found = data.splits[split]
        assert len(found.row_N)
        for factor in found.factors:
            assert value_of(factor) == frame()[factor.name].iloc[found.row_N].tolist()
    assert data.feature_names == ("own", "other")
    counts = "shape (3 values), scale (5 values), angle (60 values)"
    assert f"factors of variation, which are no features: {counts}" in data.notes


def test_a_label_may_be_a_factor_too(tmp_path: Path):
    frame().to_parquet(tmp_path / "t.parquet")
    table = read("parquet", tmp_path / "t.parquet", label="shape", factors=("shape",))
    assert value_of(table.factors[0]) == [table.labels[code] for code in table.label_N]


def test_other_factors_are_other_data(tmp_path: Path):
    source, path = write_frame("parquet", frame(), tmp_path)
    of_file = fingerprint(read(source, path, exclude=("angle",), factors=("shape", "scale")))
    changed = frame().assign(scale=lambda of: of["scale"] + (of["own"] == 7))
    source, path = write_frame("parquet", changed, tmp_path)
    assert fingerprint(read(source, path, exclude=("angle",), factors=("shape", "scale"))) != of_file


def test_what_is_no_factor_is_refused(tmp_path: Path):
    broken = frame().assign(gap=[None, *range(ROWS - 1)], name=lambda of: of["own"].map(lambda n: f"row {n}"))
    source, path = write_frame("parquet", broken, tmp_path)
    said = refusal(source, path, factors=("shpe",))
    assert "t.parquet: no column (of data.factors) 'shpe'; expected one of own, other, shape" in said
    assert "did you mean 'shape'?" in said
    said = refusal(source, path, factors=("gap",))
    assert "column 'gap': 1 of 60 values is missing; expected a factor's value" in said
    said = refusal(source, path, columns=("own", "scale"), factors=("scale",))
    assert "column 'scale': is in data.columns and is in data.factors too" in said
    assert "occurs 2 times in data.factors" in refusal(source, path, factors=("scale", "scale"))
    assert "is in data.exclude and data.factors too" in refusal(source, path, exclude=("scale",), factors=("scale",))
    wide = pd.DataFrame({"x": np.arange(1200.0), "name": [f"row {n}" for n in range(1200)]})
    source, path = write_frame("parquet", wide, tmp_path)
    assert "1,000 distinct texts in 1,200 rows (is it an identifier?)" in refusal(source, path, factors=("name",))
    np.savez(tmp_path / "t.npz", X=np.zeros((3, 2)), scale=np.arange(4), size=np.array([1, np.inf, 2]))
    assert "no array (of data.factors) 'scales'" in refusal("npz", tmp_path / "t.npz", factors=("scales",))
    assert "'scale': got shape (4,), expected (3,)" in refusal("npz", tmp_path / "t.npz", factors=("scale",))
    assert "infinite values" in refusal("npz", tmp_path / "t.npz", factors=("size",))
    pictures = write_images(tmp_path / "pictures", {"a,scale=2.png": np.zeros((3, 3), np.uint8)})
    said = refusal("images", pictures, factors=("scle",))
    assert "the name 'a,scale=2.png': no part NAME=VALUE (of data.factors) for 'scle'" in said
    assert "did you mean 'scale'?" in said
    said = refusal("digits", factors=("shape",))
    assert "data.factors: got ['shape'], which has no meaning for source digits" in said
