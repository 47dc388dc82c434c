"""What `score` says of rows that differ from those of training: images, missing values, types, categories."""

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from vae_study.config.data import CategoriesConfig, DataConfig
from vae_study.data import open_stream, prepare
from vae_study.errors import UserError

from .files import function, write_frame, write_images

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (40, 4, 6), np.uint8)
COLOUR = RANDOM.integers(0, 256, (40, 4, 6, 3), np.uint8)


def folder(place, pixels, suffix="png"):
    """Images in a folder, as Pillow writes them, or OpenCV where colours have 16 bits."""
    place.mkdir()
    for number, one in enumerate(pixels):
        path = place / f"{number:02}.{suffix}"
        if one.ndim == 3 and one.dtype == np.uint16:
            cv2.imwrite(str(path), one)
        else:
            Image.fromarray(one).save(path)
    return place


def trained(place, **config):
    source = "npz" if place.suffix == ".npz" else "images"
    return prepare(DataConfig(source=source, path=str(place), **config)).preprocessing


def said(place, preprocessing):
    """The features of what is scored, and what is said of it."""
    stream = open_stream(str(place), preprocessing)
    x_ND = np.concatenate([batch.x_ND for batch in stream])
    return x_ND, [*stream.differences.notes()]


@pytest.mark.parametrize(
    ("model", "scored", "suffix", "says"),
    [
        (GRAY, GRAY.astype(np.uint16), "png", "images of 16 bits a value or more, expected 8 bits a value, as in"),
        (GRAY, GRAY.astype(np.float32) / 255, "tif", "images of floating-point values, expected 8 bits a value"),
        (GRAY.astype(np.uint16) * 257, GRAY, "png", "images of 8 bits a value, expected 16 bits a value or more"),
        (COLOUR, COLOUR.astype(np.uint16), "png", "images of 16 bits a value or more, expected 8 bits a value"),
        (COLOUR.astype(np.uint16), GRAY, "png", "images of 8 bits a value, expected 16 bits a value or more"),
        (GRAY, COLOUR, "png", "images of 3x4x6, expected images of 4x6 pixels"),
        (COLOUR.astype(np.uint16), GRAY.astype(np.uint16), "png", "images of 4x6, expected images of 3x4x6 pixels"),
        (GRAY, GRAY[:, :3], "jpg", "images of 3x6, expected images of 4x6 pixels"),
    ],
)
def test_scored_images_of_another_depth_size_or_number_of_channels_are_refused(model, scored, suffix, says, tmp_path):
    model = trained(folder(tmp_path / "model", model, "tif" if model.dtype == np.float32 else "png"))
    with pytest.raises(UserError) as caught:
        said(folder(tmp_path / "scored", scored[:3], suffix), model)
    assert f"{tmp_path / 'scored'}: got {says}" in str(caught.value)


def test_images_of_floating_point_values_and_of_whole_ones_do_not_go_together(tmp_path):
    place = folder(tmp_path / "t", GRAY[:2].astype(np.float32) / 255, "tif")
    Image.fromarray(GRAY[0].astype(np.uint16)).save(place / "z.tif")
    with pytest.raises(UserError, match="images of floating-point values and of 16 bits a value or more, such as"):
        trained(place)


@pytest.mark.parametrize(("dtype", "factor"), [(np.float32, 1 / 255), (np.float64, 257), (np.int64, 257)])
def test_pixels_of_another_scale_are_said_and_those_of_any_type_are_read(dtype, factor, tmp_path):
    model = trained(folder(tmp_path / "model", GRAY))
    for name, x in (("same", GRAY.astype(dtype)), ("other", (GRAY.astype(float) * factor).astype(dtype))):
        np.savez(tmp_path / f"{name}.npz", X=x)
    x_ND, notes = said(tmp_path / "same.npz", model)
    assert notes == []
    np.testing.assert_array_equal(x_ND, said(tmp_path / "model", model)[0])
    _, (note,) = said(tmp_path / "other.npz", model)
    scaled = (GRAY.astype(float) * factor).astype(dtype)
    assert f"{scaled.min():g} to {scaled.max():g}" in note
    assert "those of training are 0 to 255; mend the scored images" in note
    beyond = int((scaled.reshape(40, -1).max(axis=1) > 510).sum())
    assert note.startswith(f"warning: {beyond} of 40 images" if beyond else "warning: the values of all 40 images are")


def test_an_array_of_bytes_is_compared_with_images_by_its_depth(tmp_path):
    np.savez(tmp_path / "bytes.npz", X=GRAY)
    np.savez(tmp_path / "words.npz", X=GRAY.astype(np.uint16))
    model = trained(tmp_path / "bytes.npz")
    assert said(folder(tmp_path / "t", GRAY), model)[1] == []
    with pytest.raises(UserError, match="got images of 16 bits a value or more, expected 8 bits a value"):
        said(tmp_path / "words.npz", model)


def test_gray_images_for_a_model_of_colours_and_what_is_dropped_are_said(tmp_path):
    model = trained(folder(tmp_path / "model", COLOUR))
    x_ND, notes = said(folder(tmp_path / "gray", GRAY), model)
    assert notes == ["warning: all 40 images are gray; they are read as RGB, as in training"]
    with Image.open(tmp_path / "gray" / "00.png") as image:
        rgb = np.moveaxis(np.asarray(image.convert("RGB"), np.float32), -1, 0)
    np.testing.assert_allclose(model.pixels.scale.inverse(x_ND[0]), rgb.ravel(), atol=1e-3)
    clear = np.concatenate([COLOUR, np.full((40, 4, 6, 1), 9, np.uint8)], axis=3)
    assert said(folder(tmp_path / "clear", clear), model)[1] == ["40 of 40 images have transparency, which was dropped"]


def test_the_files_of_images_are_known_in_every_split(tmp_path):
    images = {f"{'ab'[number % 2]}/{number:02}.png": one for number, one in enumerate(GRAY)}
    place = str(write_images(tmp_path, images))
    data = prepare(DataConfig(source="images", path=place, anomaly_labels=("b",), scale="none"))
    for name, split in data.splits.items():
        about = pd.DataFrame(split.about(name))
        assert about["file"].str.split("/").str[0].tolist() == about["label"].tolist()
        for x_D, file in zip(split.x_ND, about["file"], strict=True):
            np.testing.assert_array_equal(x_D, images[file].ravel())


TABLE = pd.DataFrame({"a": RANDOM.normal(size=300), "b": RANDOM.integers(0, 5, 300), "shop": ["x", "y", "z"] * 100})


@pytest.mark.parametrize("kind", ["parquet", "csv", "python"])
def test_missing_values_are_counted_as_pandas_counts_them(kind, tmp_path):
    model = prepare(DataConfig(source=function(lambda: TABLE), missing="median")).preprocessing
    scored = TABLE.copy()
    scored.loc[::7, "a"], scored.loc[5:9, "shop"] = np.nan, None
    source, path = write_frame(kind, scored, tmp_path)
    _, notes = said(path or source, model)
    train = float(model.numbers[0].fill)
    assert notes == [
        f"{scored['a'].isna().sum()} of 300 values of 'a' are missing; the median {train:g} is used instead",
        f"{scored['shop'].isna().sum()} of 300 values of 'shop' are missing; it counts as a rare category",
    ]
    assert said(*(str(write_frame("csv", TABLE, tmp_path)[1]), model))[1] == []


def test_of_many_columns_with_gaps_the_first_are_named_and_the_rest_is_counted(tmp_path):
    wide = pd.DataFrame(RANDOM.normal(size=(50, 9)), columns=list("abcdefghi"))
    model = prepare(DataConfig(source=function(lambda: wide), missing="median")).preprocessing
    wide.where(RANDOM.random(wide.shape) < 0.5).to_parquet(tmp_path / "t.parquet")
    _, notes = said(tmp_path / "t.parquet", model)
    counts = pd.read_parquet(tmp_path / "t.parquet").isna().sum().tolist()
    assert [int(note.split()[0]) for note in notes] == [*counts[:5], sum(counts[5:])]
    assert notes[-1].endswith("values are missing in 4 columns more")


def test_columns_that_came_as_another_type_are_named(tmp_path):
    declared = CategoriesConfig(columns=("b",), rare=0)
    table = TABLE.assign(b=TABLE["b"].astype(str))
    model = prepare(DataConfig(source=function(lambda: table), categories=declared)).preprocessing
    same = table.assign(a=table["a"].map(repr), b=table["b"].astype(int))
    pq.write_table(pa.Table.from_pandas(same), tmp_path / "t.parquet")
    x_ND, notes = said(tmp_path / "t.parquet", model)
    assert notes == ["column 'a' came as text, read as numbers", "column 'b' came as numbers, read as categories"]
    table.to_csv(tmp_path / "t.csv", index=False)
    plain_ND, none = said(tmp_path / "t.csv", model)
    assert none == []
    np.testing.assert_array_equal(x_ND, plain_ND)


def test_what_was_found_in_a_csv_is_said_at_scoring_too(tmp_path):
    model = prepare(DataConfig(source=function(lambda: TABLE))).preprocessing
    TABLE.to_csv(tmp_path / "t.csv", index=False, sep=";")
    assert said(tmp_path / "t.csv", model)[1] == ["read with the separator ';' (data.separator)"]
