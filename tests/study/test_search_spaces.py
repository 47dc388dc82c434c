"""Every study that is shipped, for one epoch of one trial: as it stands, but for its data's place and its budget."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from vae_study.api import check_study, run_study
from vae_study.config.loading import load_config

FOLDER = Path(__file__).parents[2] / "search_spaces"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
BRIEF = ["trials=1", "confirm=null", "training.epochs=1", "diagnostics.iwae_draws=0", "resources.gpu=0"]


def made(script, *words, folder, name="table.parquet") -> Path:
    """The table that a shipped script makes."""
    path = folder / name
    command = [sys.executable, FOLDER / script, *words, "--output", path]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def transactions(tmp_path_factory) -> Path:
    return made("make_transactions.py", "--rows", "6000", folder=tmp_path_factory.mktemp("transactions"))


@pytest.fixture(scope="module")
def sensors(tmp_path_factory) -> Path:
    return made("make_sensors.py", "--days", "6", folder=tmp_path_factory.mktemp("sensors"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    words = ("--rows", "300", "--size", "16")
    return made("make_shapes.py", *words, folder=tmp_path_factory.mktemp("shapes"), name="shapes.npz")


@pytest.fixture(scope="module")
def textures(tmp_path_factory) -> Path:
    words = ("--size", "32", "--train", "60", "--test", "5")
    return made("make_textures.py", *words, folder=tmp_path_factory.mktemp("textures"), name="textures")


@pytest.mark.parametrize("file", FILES)
def test_a_shipped_study_runs(file, ray_session, transactions, sensors, shapes, textures, tmp_path):
    config = load_config(FOLDER / file)
    overrides = [*BRIEF, *(["search.training.epochs=null"] if "training.epochs" in config.search else [])]
    if config.data.source == "parquet":
        overrides.append(f"data.path={sensors if config.data.sequence else transactions}")
    if config.data.source == "npz":
        overrides.append(f"data.path={shapes}")
    if config.data.source == "images":
        overrides.append(f"data.path={textures}")
    if config.data.sequence is not None:
        overrides.append("data.sequence.stride=32")
    record = run_study(FOLDER / file, overrides, home=tmp_path)
    assert record.trials["state"].tolist() == ["finished"]
    assert record.champion is not None
    has_anomalies = not config.data.factors and config.data.split.by != "folder"
    assert {"val/auroc" if has_anomalies else "val/elbo", "without_model"} <= set(record.choices["rule"])
    assert ("test/pixel_pro" in record.trials) == (config.data.layout == "mvtec")
    assert np.isfinite(record.trials.filter(regex="^test/(mig|sap|modularity)$")).all(axis=None)
    assert ("test/mig" in record.trials) == bool(config.data.factors)


def test_the_table_of_transactions_is_split_by_time_and_its_fraud_can_be_found(transactions, tmp_path):
    plan = check_study(FOLDER / "transactions.yaml", [f"data.path={transactions}"], home=tmp_path)
    splits = plan.data.splits
    assert splits["train"].row_N.max() < splits["test"].row_N.max()
    assert splits["train"].row_N.mean() < splits["validation"].row_N.mean() < splits["test"].row_N.mean()
    assert all(splits[name].is_anomaly_N.sum() >= 10 for name in ("validation", "test"))
    names = plan.data.feature_names
    assert "device_age_days missing" in names
    assert any(name.startswith("category=") for name in names)


def test_flaws_are_seen_where_their_masks_are_and_nowhere_else(textures):
    for mask in sorted((textures / "ground_truth").glob("*/*.png")):
        is_flawed = np.asarray(Image.open(mask)) > 0
        assert 0 < is_flawed.mean() < 0.3
        picture = np.asarray(Image.open(textures / "test" / mask.parent.name / mask.name.replace("_mask", "")))
        assert picture.shape == is_flawed.shape == (32, 32)
    counts = {folder.name: len([*folder.iterdir()]) for folder in sorted((textures / "test").iterdir())}
    assert counts == dict.fromkeys(("dent", "good", "scratch", "stain"), 5)


def test_the_shapes_differ_wherever_a_factor_does_and_lie_in_their_pictures(shapes):
    arrays = np.load(shapes)
    x_NHW, factors = arrays["X"], [arrays[name] for name in ("shape", "scale", "angle", "x", "y")]
    assert len({picture.tobytes() for picture in x_NHW}) == len({*zip(*(one.tolist() for one in factors), strict=True)})
    assert x_NHW.max(axis=(1, 2)).min() > 128
    # Nothing is cut off: the area follows from shape and scale alone.
    area_N = x_NHW.sum(axis=(1, 2)) / arrays["scale"] ** 2
    for shape in {*arrays["shape"]}:
        assert np.ptp(area_N[arrays["shape"] == shape]) < 0.3 * area_N[arrays["shape"] == shape].mean()
    middle = np.arange(16) + 0.5
    for centre, axis in ((arrays["x"], 1), (arrays["y"], 2)):
        mean_N = x_NHW.sum(axis=axis) @ middle / x_NHW.sum(axis=(1, 2)) / 16
        assert np.corrcoef(mean_N, centre)[0, 1] > 0.95


def test_the_table_of_sensors_has_five_kinds_of_faults_behind_the_training_period(sensors, tmp_path):
    plan = check_study(FOLDER / "sensors.yaml", [f"data.path={sensors}"], home=tmp_path)
    assert plan.data.sequence_shape == (32, 7)
    assert all(plan.data.splits[name].is_anomaly_N.sum() >= 10 for name in ("validation", "test"))
    frame = pd.read_parquet(sensors)
    assert {*frame["fault"]} == {"none", "spikes", "shift", "stuck", "leak", "decoupled"}
    rows = sum(len(plan.data.splits[name].x_ND.rows_RF) for name in plan.data.splits)
    assert rows == len(frame)
