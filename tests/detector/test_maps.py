"""Images whose anomalies are few of their pixels: from folders with masks to a score, measures and pictures of maps."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from vae_study.config.data import DataConfig
from vae_study.config.model import TrialConfig
from vae_study.data import open_stream, prepare
from vae_study.detector import maps
from vae_study.detector.score_file import score_file
from vae_study.errors import UserError
from vae_study.vae.stacking import ModelSetup

from tests.detector.builders import ensemble, single, study

MAKER = Path(__file__).parents[2] / "search_spaces" / "make_textures.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of 32 x 32 pixels, of which 24 have a flaw."""
    place = tmp_path_factory.mktemp("textures") / "small"
    asked = ["--size", "32", "--train", "60", "--test", "8", "--output", str(place)]
    subprocess.run([sys.executable, str(MAKER), *asked], check=True)
    return place


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Two trials of a few epochs."""
    data = prepare(DataConfig(source="images", path=str(folder), layout="mvtec", split={"by": "folder"}))
    network = {"kind": "conv", "channels": [4, 8], "hidden": [16]}
    plain = {"model": {"network": network, "latent_dim": 4, "sigma": 0.1}, "training": {"epochs": 8, "batch_size": 16}}
    setups = [ModelSetup(config=TrialConfig.model_validate(plain), seed=seed) for seed in (0, 1)]
    return study(data, setups, tmp_path_factory.mktemp("trials"))


def test_the_maximum_of_the_map_finds_flaws_that_the_sum_over_all_pixels_does_not(trained):
    test = trained.scores(0).query("split == 'test'")
    assert roc_auc_score(test["anomaly"], test["map_maximum"]) > roc_auc_score(test["anomaly"], test["elbo"]) + 0.1


def test_the_stored_maps_and_masks_are_those_of_the_highest_rows(trained):
    test, detector_scores = trained.data.splits["test"], trained.scores(0).query("split == 'test'")
    with np.load(trained.place / "0" / "examples.npz") as arrays:
        place_T, maps_THW, masks_THW = arrays["top_place"], arrays["top_maps"], arrays["top_masks"]
    assert (masks_THW == test.is_anomaly_NP[place_T].reshape(-1, 32, 32)).all()
    assert maps_THW.max(axis=(1, 2)) == pytest.approx(detector_scores["map_maximum"].to_numpy()[place_T], rel=1e-5)
    highest = np.argsort(-detector_scores["map_maximum"].to_numpy())[:10]
    assert set(highest) <= set(place_T)


@pytest.mark.parametrize("choice", [single(0, "map_maximum"), ensemble(0, 1)], ids=["trial", "ensemble"])
def test_a_picture_is_written_of_each_image_above_the_threshold(trained, folder, tmp_path, choice):
    detector = trained.packed(choice, tmp_path / "packed")
    stream = open_stream(str(folder / "test"), detector.preprocessing)
    found = score_file(detector, stream, tmp_path / "s.parquet", maps=tmp_path / "maps")
    scores = pd.read_parquet(tmp_path / "s.parquet")
    above = scores.loc[scores["above_p99"], "file"]
    written = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert written == sorted(name.replace("/", "_") for name in above)
    assert 0 < len(written) < len(scores)
    assert any(f"above the 99th percentile: {len(written)} in" in note for note in found.notes)
    for name, file in zip(written, sorted(above), strict=True):
        both = np.asarray(Image.open(tmp_path / "maps" / name), np.int64)
        assert both.shape == (32, 64, 3)
        original = np.asarray(Image.open(folder / "test" / file))
        # As the model sees it: train's range of values from black to white.
        seen = trained.data.preprocessing.numbers_of(original.reshape(1, -1))[:].reshape(32, 32)
        assert np.abs(both[:, :32, 0] - 255 * seen).max() <= 1
        # Where the map is high, it is red.
        assert (both[:, 32:, 0] - both[:, 32:, 2]).max() > 60


def test_maps_are_refused_where_they_would_overwrite_or_where_there_are_none(trained, folder, tmp_path, small):
    detector = trained.packed(single(0, "map_maximum"), tmp_path / "packed")
    stream = open_stream(str(folder / "test"), detector.preprocessing)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(UserError, match="is there already; expected a new or an empty folder"):
        score_file(detector, stream, tmp_path / "s.parquet", maps=tmp_path / "full")
    assert not (tmp_path / "s.parquet").exists()
    other = small.packed(ensemble(0, 2), tmp_path / "other")
    with pytest.raises(UserError, match="has no anomaly maps; expected one of images"):
        maps.MapFolder(tmp_path / "new", other)


@pytest.mark.parametrize(("score", "limit"), [("elbo", "MOST_COLUMNS"), ("map_maximum", "MOST_REPLACED")])
def test_an_explanation_with_a_column_for_each_of_many_pixels_is_refused(
    trained, folder, tmp_path, monkeypatch, score, limit
):
    detector = trained.packed(single(0, score), tmp_path / "packed")
    stream = open_stream(str(folder / "test"), detector.preprocessing)
    maps.require_columns(detector)
    monkeypatch.setattr(maps, limit, 1023)
    with pytest.raises(UserError, match=r"got images of 1,024 values, expected at most 1,023.*--maps FOLDER"):
        score_file(detector, stream, tmp_path / "s.parquet", explain=True)
