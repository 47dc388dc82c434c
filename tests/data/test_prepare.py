import json
from dataclasses import replace

import numpy as np
import pytest
from vae_study.config.data import DataConfig
from vae_study.data import SPLIT_NAMES, prepare, with_absolute_paths
from vae_study.data.table import fingerprint
from vae_study.errors import UserError

from .tables import LABELS, prepared, table, with_categories


@pytest.mark.parametrize("scale", ["unit", "standard", "robust", "quantile", "none"])
@pytest.mark.parametrize(
    ("source", "label", "rows", "anomalies"), [("digits", 8, 1797, 174), ("breast_cancer", 0, 569, 212)]
)
def test_the_bundled_data_sets_are_ready_for_training(source, label, rows, anomalies, scale):
    data = prepare(DataConfig(source=source, anomaly_labels=(label,), scale=scale))
    splits = data.splits
    assert sum(len(split.row_N) for split in splits.values()) == rows
    assert [int(splits[name].is_anomaly_N.sum()) for name in SPLIT_NAMES] == [0, anomalies // 2, anomalies // 2]
    for split in splits.values():
        assert split.x_ND.dtype == np.float32
        assert np.isfinite(split.x_ND).all()
        assert ((split.label_N == str(label)) == split.is_anomaly_N).all()
        assert len(split.normal_ND) == (~split.is_anomaly_N).sum()
    assert len(data.feature_names) == splits["train"].x_ND.shape[1]
    assert data.image_shape == ((8, 8) if source == "digits" else None)
    assert data.has_anomalies
    assert data.notes == ()


def test_the_summary_is_plain_and_says_what_became_of_the_columns():
    x_ND = np.stack([np.arange(100), np.full(100, np.nan), np.where(LABELS == 0, np.nan, LABELS)], axis=1)
    source = with_categories(x_ND, ["a", "b"] * 50, label_N=LABELS, notes=("column 'id' is ignored",))
    summary = prepared(source, missing="median").summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["features"] == len(summary["feature_names"]) == 5
    assert summary["splits"]["train"] == {"rows": 48, "anomalies": 0}
    assert summary["columns"]["columns"] == ["feature 0", "feature 2", "category 0"]
    assert summary["columns"]["dropped"] == ["feature 1"]
    assert summary["columns"]["missing"]["feature 2"] > 0
    assert summary["columns"]["categories"]["category 0"] in (["a", "b"], ["b", "a"])
    assert summary["notes"][0] == "column 'id' is ignored"
    assert any("'feature 1' is left out" in note for note in summary["notes"])


def test_gaps_that_train_has_not_are_noted():
    x_ND = np.arange(200.0).reshape(100, 2)
    x_ND[prepared(table(x_ND)).splits["test"].row_N[:3], 1] = np.nan
    data = prepared(table(x_ND), missing="median")
    assert data.notes[0].startswith("rows without 'feature 1', which every training row has: 3; the median")


def test_rows_features_and_labels_belong_together():
    x_ND = np.arange(100, dtype=np.float32)[:, None] * [1, -1]
    data = prepared(table(x_ND), scale="none")
    for split in data.splits.values():
        assert (split.x_ND[:, 0] == split.row_N).all()
        assert (split.label_N.astype(int) == split.row_N % 5).all()
    assert data.classes == ("0", "1", "2", "3")
    for name, split in data.splits.items():
        expected_NC = split.label_N[:, None] == np.array(data.classes)
        assert (data.condition(name) == expected_NC).all()


def test_a_table_without_labels_has_no_classes_and_no_anomalies():
    data = prepared(table(np.arange(100)[:, None], label_N=None, labels=()), anomaly_labels=None)
    assert data.classes == ()
    assert not data.has_anomalies
    assert data.condition("train").shape == (60, 0)
    assert set(data.splits["train"].label_N) == {""}
    assert [len(data.splits[name].row_N) for name in SPLIT_NAMES] == [60, 20, 20]


SOURCE = with_categories(
    np.arange(200.0).reshape(100, 2), ["a", "b"] * 50, label_N=LABELS, split_N=np.arange(100), image_shape=None
)
CHANGES = {
    "value": {"x_ND": SOURCE.x_ND + np.float32(1e-3)},
    "name": {"feature_names": ("feature 0", "other")},
    "category": {"categories": (("a", "c"),)},
    "category of a row": {"code_NC": 1 - SOURCE.code_NC},
    "label": {"labels": (0, 1, 2, 3, 5)},
    "kind of label": {"labels": ("0", "1", "2", "3", "4")},
    "label of a row": {"label_N": SOURCE.label_N[::-1]},
    "no labels": {"label_N": None, "labels": ()},
    "times": {"split_N": np.arange(100) + 1},
    "type of times": {"split_N": np.arange(100.0)},
    "no times": {"split_N": None},
    "shape": {"image_shape": (1, 2)},
    "meaning of labels": {"has_binary_labels": True},
}


@pytest.mark.parametrize("part", CHANGES)
def test_the_fingerprint_changes_with_the_content(part):
    assert fingerprint(replace(SOURCE, **CHANGES[part])) != fingerprint(SOURCE)


def test_the_fingerprint_does_not_change_with_the_place_the_memory_or_the_config():
    moved = replace(SOURCE, where="elsewhere", notes=("a note",), x_ND=np.asfortranarray(SOURCE.x_ND))
    assert fingerprint(moved) == fingerprint(SOURCE)
    assert prepared(SOURCE, scale="standard").sha256 == prepared(SOURCE).sha256 == fingerprint(SOURCE)


def test_the_same_config_gives_the_same_arrays():
    one, other = prepared(SOURCE), prepared(SOURCE)
    for name in SPLIT_NAMES:
        np.testing.assert_array_equal(one.splits[name].x_ND, other.splits[name].x_ND)
        np.testing.assert_array_equal(one.splits[name].row_N, other.splits[name].row_N)


def test_paths_are_made_absolute_and_those_with_a_scheme_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert with_absolute_paths(DataConfig(source="csv", path="a/../b.csv", label="y")).path == str(tmp_path / "b.csv")
    assert with_absolute_paths(DataConfig(source="csv", path="b.csv", label="y")).label == "y"
    assert with_absolute_paths(DataConfig(source="csv", path="~/b.csv")).path == str(tmp_path / "b.csv")
    assert with_absolute_paths(DataConfig(source="csv", path="s3://bucket/b.csv")).path == "s3://bucket/b.csv"
    idx = with_absolute_paths(DataConfig(source="idx", path="images", label="labels"))
    assert (idx.path, idx.label) == (str(tmp_path / "images"), str(tmp_path / "labels"))
    assert with_absolute_paths(DataConfig(source="digits")) == DataConfig(source="digits")
    assert with_absolute_paths(idx) == idx


def test_what_cannot_be_prepared_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_STUDY_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="got 11, which does not occur in digits"):
        prepare(DataConfig(source="digits", anomaly_labels=(11,)))
    assert [path for path in tmp_path.rglob("*") if path.suffix != ".lock"] == [tmp_path / "cache"]


def test_data_are_called_by_their_files_name(tmp_path):
    np.savez(tmp_path / "rows.npz", X=np.random.default_rng(0).normal(size=(50, 3)))
    assert prepare(DataConfig(source="npz", path=str(tmp_path / "rows.npz"))).source == "rows.npz"
    assert prepare(DataConfig(source="digits")).source == "digits"
