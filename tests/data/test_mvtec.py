"""The folders of MVTec AD: which pictures are for what, which are anomalous, and which of their pixels."""

import shutil

import numpy as np
import pytest
from PIL import Image
from vae_study.config.data import DataConfig
from vae_study.config.loading import load_config
from vae_study.data import prepare
from vae_study.errors import UserError

from .files import read, refusal, write_images

RANDOM = np.random.default_rng(0)
SIZE = (5, 7)


@pytest.fixture
def folder(tmp_path):
    """20 pictures to train on, and 3 of each kind to test."""
    names = [f"train/good/{number:03}.png" for number in range(20)]
    names += [f"test/{kind}/{number:03}.png" for kind in ("crack", "good", "hole") for number in range(3)]
    write_images(tmp_path, {name: RANDOM.integers(0, 256, SIZE).astype(np.uint8) for name in names})
    masks = {f"ground_truth/{kind}/{n:03}_mask.png": mask(kind, n) for kind in ("crack", "hole") for n in range(3)}
    write_images(tmp_path, masks)
    return tmp_path


def mask(kind: str, number: int) -> np.ndarray:
    """White in a row of pixels, another one for each picture."""
    found = np.zeros(SIZE, np.uint8)
    found[number + (kind == "hole"), 1:4] = 255
    return found


def config(folder, **changes) -> DataConfig:
    """By these folders."""
    plain = {"source": "images", "path": str(folder), "layout": "mvtec", "split": {"by": "folder"}}
    return DataConfig.model_validate({**plain, **changes})


def test_labels_parts_and_masks_are_those_of_the_folders(folder):
    table = read("images", folder, layout="mvtec")
    assert table.files[0] == "train/good/000.png"
    assert table.files[-1] == "test/hole/002.png"
    assert table.labels == ("crack", "good", "hole")
    assert table.split_N.tolist() == [0] * 20 + [1] * 9
    assert "masks of anomalous pixels: 6" in table.notes
    assert (table.masks.of(28).reshape(SIZE) == (mask("hole", 2) > 0)).all()
    assert not table.masks.of(0).any()


@pytest.mark.parametrize("by", ["folder", "random"])
def test_all_but_good_are_anomalous_and_the_masks_of_test_are_those_of_its_pictures(folder, by):
    data = prepare(config(folder, split={"by": by}))
    test, files = data.splits["test"], data.splits["test"].file_N.to_pylist()
    assert ["good" not in name for name in files] == test.is_anomaly_N.tolist()
    for name, mask_P in zip(files, test.is_anomaly_NP, strict=True):
        _, kind, number = name.removesuffix(".png").split("/")
        assert (mask_P.reshape(SIZE) == (mask(kind, int(number)) > 0 if kind != "good" else False)).all()
    assert data.splits["train"].is_anomaly_NP is None
    if by == "folder":
        assert sorted(files) == sorted(f"test/{kind}/00{n}.png" for kind in ("crack", "good", "hole") for n in range(3))
        assert [len(data.splits[name].row_N) for name in ("train", "validation")] == [15, 5]


def test_a_picture_of_train_that_equals_one_of_test_goes_there(folder):
    shutil.copy(folder / "test" / "good" / "001.png", folder / "train" / "good" / "020.png")
    data = prepare(config(folder))
    assert "train/good/020.png" in data.splits["test"].file_N.to_pylist()
    assert any("equal one of test, and went there: 1" in note for note in data.notes)


def test_flawed_pictures_in_train_are_labelled_anomalies_of_validation(folder):
    write_images(folder, {"train/hole/000.png": RANDOM.integers(0, 256, SIZE).astype(np.uint8)})
    validation = prepare(config(folder)).splits["validation"]
    assert validation.file_N.to_numpy(False)[validation.is_anomaly_N].tolist() == ["train/hole/000.png"]


def test_another_mask_makes_another_data_set(folder):
    before = prepare(config(folder))
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(folder / "ground_truth" / "hole" / "000_mask.png")
    after = prepare(config(folder))
    assert before.sha256 != after.sha256
    assert after.splits["test"].is_anomaly_NP.sum() == before.splits["test"].is_anomaly_NP.sum() + np.prod(SIZE) - 3


def test_without_ground_truth_there_are_no_masks(folder):
    shutil.rmtree(folder / "ground_truth")
    assert prepare(config(folder)).splits["test"].is_anomaly_NP is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda f: shutil.rmtree(f / "test"),
            "has no folder 'test'; expected train/good and test",
        ),
        (lambda f: (f / "train/good").rename(f / "train/fine"), "train has no folder 'good'"),
        (lambda f: (f / "ground_truth/hole/001_mask.png").unlink(), "ground_truth/hole/001_mask.png: is missing"),
        (
            lambda f: Image.fromarray(np.zeros((4, 4), np.uint8)).save(f / "ground_truth/hole/001_mask.png"),
            "ground_truth/hole/001_mask.png: a mask of 4x4 pixels, expected 7x5",
        ),
        (
            lambda f: (f / "ground_truth/hole/001_mask.png").write_bytes(b"GIF"),
            "_mask.png: cannot be read as an image",
        ),
    ],
)
def test_folders_that_cannot_serve_are_refused_with_the_place(folder, change, says):
    change(folder)
    with pytest.raises(UserError) as caught:
        prepare(config(folder))
    assert says in str(caught.value)


def test_such_folders_without_the_layout_say_which_setting_reads_them(folder):
    assert "data.layout: mvtec reads such folders" in refusal("images", folder)
    assert "expected 'mvtec' or nothing" in refusal("images", folder, layout="series")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"source": "npz", "path": "a.npz", "layout": "mvtec"}, "got 'mvtec', expected 'images' or 'series'"),
        ({"source": "images", "path": "a", "split": {"by": "folder"}}, "which needs source images and layout mvtec"),
    ],
)
def test_a_study_file_that_uses_the_layout_wrongly_is_refused(tmp_path, data, says):
    path = tmp_path / "study.yaml"
    path.write_text(f"study: a\ndata: {data}\nsearch: {{beta: {{low: 0.1, high: 1}}}}\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert says in str(caught.value)
