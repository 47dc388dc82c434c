"""Folders of images, as cameras, microscopes and satellites write them; right values are Pillow's and OpenCV's."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from .files import read, refusal, write_images

GRAY = np.full((4, 6), 7, np.uint8)
COLOUR = np.dstack([np.full((4, 6), value, np.uint8) for value in (1, 2, 3)])
EXIF_ORIENTATION = 0x0112


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (
            {"a.png": GRAY, "b.png": GRAY, "c.png": GRAY[:2]},
            "images of 2 sizes: 6x4 (2, such as '{0}/a.png'), 6x2 (1, such as '{0}/c.png')",
        ),
        ({"a.png": GRAY, "cats/b.png": GRAY}, "'a.png' is next to sub-folders"),
        ({"train/cats/a.png": GRAY}, "sub-folder 'train' holds the folder 'cats'"),
        (
            {"a.png": GRAY, "b.png": GRAY.astype(np.uint16)},
            "images of 8 bits a value and of 16 bits a value or more, such as '{0}/a.png', '{0}/b.png'",
        ),
        ({}, "no image; expected files such as a.png, or one sub-folder a class"),
    ],
)
def test_folders_of_images_that_cannot_serve_are_refused(images, says, tmp_path):
    assert f"{tmp_path}: {says.format(tmp_path)}" in refusal("images", write_images(tmp_path, images))


def test_a_class_without_an_image_or_with_a_film_is_refused(tmp_path):
    write_images(tmp_path, {"cats/a.png": GRAY})
    (tmp_path / "dogs").mkdir()
    assert "sub-folder 'dogs' holds no image" in refusal("images", tmp_path)
    frames = [Image.fromarray(GRAY), Image.fromarray(GRAY + 9)]
    frames[0].save(tmp_path / "dogs" / "b.gif", save_all=True, append_images=frames[1:])
    assert f"{tmp_path / 'dogs' / 'b.gif'}: 2 frames; expected a single image" in refusal("images", tmp_path)


def test_gray_beside_colour_becomes_colour_and_what_is_dropped_is_noted(tmp_path):
    clear = np.dstack([COLOUR, np.zeros((4, 6), np.uint8)])
    write_images(tmp_path, {"a.png": GRAY, "b.png": COLOUR, "c.png": clear})
    (tmp_path / "labels.txt").touch()
    (tmp_path / ".hidden").touch()
    table = read("images", tmp_path)
    assert table.image_shape == (3, 4, 6)
    assert [np.unique(row).tolist() for row in table.x_ND.reshape(9, -1)] == [
        [7],
        [7],
        [7],
        [1],
        [2],
        [3],
        [1],
        [2],
        [3],
    ]
    notes = "; ".join(table.notes)
    assert "files that are not images were ignored: 1, such as 'labels.txt'" in notes
    assert "1 of 3 images are gray and were read as RGB" in notes
    assert "1 of 3 images have transparency, which was dropped" in notes


def test_gray_of_16_bits_keeps_its_values(tmp_path):
    table = read("images", write_images(tmp_path, {"a.png": np.full((2, 2), 40_000, np.uint16)}))
    assert table.x_ND.tolist() == [[40_000] * 4]


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_becomes_colour(tmp_path):
    image = Image.fromarray(COLOUR).quantize(2)
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    table = read("images", tmp_path)
    assert table.x_ND.reshape(3, -1).max(axis=1).tolist() == [1, 2, 3]
    assert "1 of 1 images have transparency" in table.notes[0]


def photograph(path, upright, orientation, **options):
    """A JPEG as a camera that is held so writes it: pixels as the sensor has them, and a tag how to turn them."""
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(upright)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    (image.transpose(turned[orientation]) if orientation in turned else image).save(path, exif=exif, **options)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_images_stand_upright_however_the_camera_was_held(suffix, tmp_path):
    scene = np.zeros((8, 16, 3), np.uint8)
    scene[:4], scene[:, :4] = 250, 120
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    for orientation in range(1, 9):
        photograph(tmp_path / f"{orientation}.{suffix}", scene, orientation, **options)
    table = read("images", tmp_path)
    assert table.image_shape == (3, 8, 16)
    assert "7 of 8 images were turned upright, as their EXIF says" in table.notes
    for orientation, row in enumerate(table.x_ND, 1):
        with Image.open(tmp_path / f"{orientation}.{suffix}") as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(row.reshape(3, 8, 16), np.moveaxis(expected, -1, 0))
        assert np.abs(row.reshape(3, 8, 16) - np.moveaxis(scene, -1, 0)).max() < 12


def test_of_a_file_with_a_preview_behind_it_the_first_image_is_read(tmp_path):
    first, second = Image.fromarray(COLOUR * 50), Image.fromarray(COLOUR[:2])
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=100)
    first.save(tmp_path / "b.mpo", format="MPO", save_all=True, append_images=[second, second], quality=100)
    first.save(tmp_path / "c.jpg", quality=100)
    table = read("images", tmp_path)
    assert table.image_shape == (3, 4, 6)
    np.testing.assert_array_equal(table.x_ND[0], table.x_ND[2])
    np.testing.assert_array_equal(table.x_ND[1], table.x_ND[2])
    assert "2 of 3 images have further frames (MPO); the first was read" in table.notes


@pytest.mark.parametrize(("suffix", "channels"), [("png", 3), ("png", 4), ("tiff", 3), ("tiff", 4), ("ppm", 3)])
def test_colours_of_16_bits_keep_them(suffix, channels, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (4, 6, channels)).astype(np.uint16)
    # OpenCV wants blue first.
    order = [2, 1, 0, 3][:channels]
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), pixels[..., order])
    table = read("images", tmp_path)
    np.testing.assert_array_equal(table.x_ND[0].reshape(3, 4, 6), np.moveaxis(pixels[..., :3], -1, 0))


def test_colours_of_8_and_of_16_bits_do_not_go_together(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.ones((4, 6, 3), np.uint16))
    write_images(tmp_path, {"b.png": COLOUR})
    assert "images of 16 bits a value or more and of 8 bits a value, such as" in refusal("images", tmp_path)
    (tmp_path / "b.png").unlink()
    write_images(tmp_path, {"b.png": GRAY.astype(np.uint16)})
    assert "gray images and images in colour, such as" in refusal("images", tmp_path)


@pytest.mark.parametrize(
    ("dtype", "no_data"), [(np.float32, "-9999"), (np.float32, "-3.4028234663852886e+38"), (np.uint16, "65535")]
)
def test_a_value_that_stands_for_missing_pixels_is_missing(dtype, no_data, tmp_path):
    pixels = np.random.default_rng(0).uniform(0, 100, (4, 6)).astype(dtype)
    pixels[1, 2] = float(no_data)
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={42113: no_data})
    table = read("images", tmp_path)
    expected = np.where(np.arange(24) == 8, np.nan, pixels.ravel().astype(np.float32))
    np.testing.assert_array_equal(table.x_ND[0], expected)
    assert table.notes == (f"1 of 1 images name a value of missing pixels: {float(no_data):g}",)


def test_images_that_cannot_be_read_are_not_left_out_in_silence(tmp_path):
    write_images(tmp_path, {"cats/a.png": GRAY})
    (tmp_path / "cats" / "b.HEIC").write_bytes(b"????ftypheic")
    assert f"{tmp_path / 'cats' / 'b.HEIC'}: .HEIC cannot be read; expected PNG, JPEG" in refusal("images", tmp_path)


def test_a_pipe_among_images_is_not_waited_for_and_pictures_beyond_any_model_are_not_decoded(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert f"{tmp_path / 'a.png'}: is a pipe or a device" in refusal("images", tmp_path)
    (tmp_path / "a.png").unlink()
    write_images(tmp_path, {"b.png": np.zeros((4000, 4000), np.uint8)})
    assert "images of 4,000 x 4,000 are 16,000,000 features each; expected at most" in refusal("images", tmp_path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"II*\0\xff\xff\xff\xff", b"nonsense", b"", b"II*\0\x08\0\0\0\x01\0"])
def test_an_image_whose_exif_is_damaged_lies_as_it_is(exif, tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    Image.fromarray(COLOUR).save(tmp_path / "b.jpg", exif=b"Exif\0\0" + exif, quality=100, subsampling=0)
    table = read("images", tmp_path)
    assert table.image_shape == (3, 4, 6)
    assert np.abs(table.x_ND[1] - table.x_ND[0]).max() <= 2
    assert table.notes == ()
