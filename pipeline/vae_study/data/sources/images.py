"""Folders of image files, of which a sub-folder may stand for a class."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vae_study.config.data import DataConfig
from vae_study.data.pixels import collected
from vae_study.data.sources.arrays import BYTES, WORDS, pixel_names
from vae_study.data.sources.category_index import factors_of_names, labels_of_array
from vae_study.data.sources.files import local_path, reading
from vae_study.data.sources.mvtec import GOOD, LAYOUT, PARTS, TRUTH, find_masks, find_pictures
from vae_study.data.sources.numbers import floats_of_array
from vae_study.data.sources.source import FOLDER, Examples, ModelInput, Source
from vae_study.data.table import Label, Table
from vae_study.errors import UserError

_KIND = "an image"
_MOST_PIXELS = 2**22
_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
# Images that Pillow does not read. They are refused: a folder without them would be another data set.
_UNREADABLE_SUFFIXES = (
    ".arw", ".cr2", ".cr3", ".dcm", ".dng", ".heic", ".heif", ".hif", ".jxl", ".nef", ".raw", ".svg",
)  # fmt: skip
# The modes that images are read as: gray and colour, of 8 bits a value and of more, or of floating-point numbers.
_GRAY, _COLOUR, _DEEP_GRAY, _DEEP_COLOUR = "L", "RGB", "F", "RGB;16"
_FLOATS = "floating-point values"
_ORIENTATION_TAG, _UPRIGHT = 0x0112, 1
# The value of missing pixels, as text: https://gdal.org/en/stable/drivers/raster/gtiff.html#nodata-value
_NO_DATA_TAG = 42113
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_SIZES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What the header of an image file says.

    Attributes:
        size: Width and height, upright.
        mode: What its values are read as.
        depth: What its values are, as in Table.
        orientation: How a camera was held, as EXIF numbers it; 1 is upright.
        is_first_frame: Whether the file has further frames that are left out: previews, the second lens.
        no_data: The value of missing pixels; None if the file names none.
    """

    path: Path
    where: str
    size: tuple[int, int]
    mode: str
    depth: str
    has_alpha: bool
    orientation: int
    is_first_frame: bool
    no_data: float | None


def open_images(config: DataConfig, model: ModelInput | None) -> Examples:
    """All images of a folder, or of its sub-folders with their names as labels, in the order of these names.

    Raise UserError if there is no such folder, or if its images do not fit together.
    """
    given = str(config.path)
    folder = local_path(given, is_folder=True)
    if model is None and config.layout not in (None, LAYOUT):
        raise UserError(f"data.layout: got {config.layout!r}, expected {LAYOUT!r} or nothing for a folder of images")
    # What is scored may lie in any folder.
    pictures = None if model is not None or config.layout is None else find_pictures(folder, given, _found)
    if pictures is None:
        with reading(given, "a folder"):
            found, others = _found(folder, given)
    else:
        found, others = [*pictures.found], [*pictures.others]
    headers = [_header(path, os.path.join(given, path.relative_to(folder))) for path, _ in found]
    _require_one_size(given, headers)
    mode, notes = _common_mode(given, headers)
    if model is not None and len(model.image_shape or ()) == 3 and mode == _GRAY:
        # Training read gray images as RGB if it also had images in colour.
        mode = _COLOUR
        notes = [f"warning: all {len(headers):,} images are gray; they are read as RGB, as in training", *notes]
    if others:
        unreadable = next((name for name in others if name.lower().endswith(_UNREADABLE_SUFFIXES)), None)
        if unreadable is not None:
            kind = Path(unreadable).suffix
            raise UserError(f"{os.path.join(given, unreadable)}: {kind} cannot be read; expected PNG, JPEG, TIFF, ...")
        notes = [f"files that are not images were ignored: {len(others):,}, such as {others[0]!r}", *notes]
    label_N: NDArray[np.int32] | None = None
    labels: tuple[Label, ...] = ()
    folders = [label for _, label in found if label is not None]
    if model is None and folders:
        label_N, labels = labels_of_array(given, "sub-folder", folders)
    files = tuple(path.relative_to(folder).as_posix() for path, _ in found)
    factors = factors_of_names(given, files, config.factors) if model is None else ()
    image_shape = _shape(headers[0], mode)
    if math.prod(image_shape) > _MOST_PIXELS:
        shown = f"{headers[0].size[0]:,} x {headers[0].size[1]:,}"
        raise UserError(
            f"{given}: images of {shown} are {math.prod(image_shape):,} features each; expected at most "
            f"{_MOST_PIXELS:,}, since a model has weights for each of them: make them smaller"
        )
    names = pixel_names(image_shape)
    masks = None if pictures is None else find_masks(folder, given, pictures, headers[0].size)
    if masks is not None:
        notes = [*notes, f"masks of anomalous pixels: {masks.count:,}"]

    def table(rows: slice) -> Table:
        is_all = rows == slice(None)
        return Table(
            x_ND=_features(headers[rows], mode, given, names),
            feature_names=names,
            label_N=label_N if is_all else None,
            labels=labels if is_all else (),
            factors=factors if is_all else (),
            image_shape=image_shape,
            depth=headers[0].depth,
            files=files[rows],
            masks=masks if is_all else None,
            normal_label=None if pictures is None else GOOD,
            split_N=pictures.part_N if pictures is not None and is_all else None,
            has_binary_labels=config.has_binary_labels,
            where=given,
            notes=tuple(notes),
        )

    return Examples(where=given, shape=(len(headers), *image_shape), table=table)


def _found(folder: Path, given: str) -> tuple[list[tuple[Path, str | None]], list[str]]:
    """Images with their labels, and the names of other files."""
    folders, images, others = _sorted_paths(folder)
    if folders and images:
        raise UserError(f"{given}: {images[0].name!r} is next to sub-folders; expected images in one or the other")
    if not folders and not images:
        raise UserError(f"{given}: no image; expected files such as a.png, or one sub-folder a class")
    found: list[tuple[Path, str | None]] = [(path, None) for path in images]
    for inner in folders:
        deeper, inside, beside = _sorted_paths(inner)
        if deeper or not inside:
            got = f"the folder {deeper[0].name!r}" if deeper else "no image"
            expected = "expected images, one sub-folder a class"
            if inner.name in (*PARTS, TRUTH):
                expected += f"; data.layout: {LAYOUT} reads such folders"
            raise UserError(f"{given}: sub-folder {inner.name!r} holds {got}; {expected}")
        found += [(path, inner.name) for path in inside]
        others += [f"{inner.name}/{name}" for name in beside]
    return found, others


def _sorted_paths(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Folders, images and the names of other files."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in paths if path.is_dir()]
    files = sorted({*paths}.difference(folders))
    images = [path for path in files if path.suffix.lower() in _SUFFIXES]
    return folders, images, [path.name for path in files if path.suffix.lower() not in _SUFFIXES]


def _header(path: Path, where: str) -> _Header:
    if not path.is_file():
        raise UserError(f"{where}: is a pipe or a device; expected a file")
    # On damaged images, each of Pillow's thirty readers raises other exceptions.
    with reading(where, _KIND, (Exception,)), Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        # MPO: a JPEG of a phone or a drone, with a preview or the second lens' image behind it.
        if frames > 1 and image.format != "MPO":
            raise UserError(f"{where}: {frames} frames; expected a single image")
        orientation = _orientation(image)
        width, height = image.size
        return _Header(
            path=path,
            where=where,
            # From 5 on, orientations are on their side; of TIFF, Pillow gives the upright size.
            size=(height, width) if orientation > 4 and image.format != "TIFF" else (width, height),
            mode=_mode(image),
            depth=_FLOATS if image.mode == "F" else BYTES if _mode(image) in (_GRAY, _COLOUR) else WORDS,
            has_alpha=image.mode in _WITH_ALPHA or "transparency" in image.info,
            orientation=orientation,
            is_first_frame=frames > 1,
            no_data=_no_data(image),
        )


def _orientation(image: Image.Image) -> int:
    """By the EXIF tag; of damaged EXIF, Pillow warns and reads what it can, as viewers do."""
    if image.format == "PNG" and "exif" not in image.info:
        # Pillow would decode the whole image to look for a tag behind it.
        return _UPRIGHT
    found = image.getexif().get(_ORIENTATION_TAG, _UPRIGHT)
    return found if found in range(2, 9) else _UPRIGHT


def _mode(image: Image.Image) -> str:
    if image.mode[0] in "IF":
        return _DEEP_GRAY
    # Pillow keeps the upper 8 bits of a colour. How the file's values are packed tells; of PPM, its largest value.
    codec, _, _, packing = next(iter(getattr(image, "tile", ())), ("", None, 0, ""))
    first, *more = packing if isinstance(packing, tuple) else (packing,)
    if ";16" in str(first) or (codec.startswith("ppm") and more[0] > 255):
        return _DEEP_COLOUR
    return _GRAY if image.mode in ("1", "L", "LA", "La") else _COLOUR


def _no_data(image: Image.Image) -> float | None:
    text = str(getattr(image, "tag_v2", {}).get(_NO_DATA_TAG, "")).strip(" \0")
    try:
        return float(text)
    except ValueError:
        return None


def _require_one_size(given: str, headers: Sequence[_Header]) -> None:
    by_size: dict[tuple[int, int], list[str]] = {}
    for header in headers:
        by_size.setdefault(header.size, []).append(header.where)
    if len(by_size) == 1:
        return
    commonest = sorted(by_size.items(), key=lambda item: -len(item[1]))[:_SIZES_SHOWN]
    shown = ", ".join(f"{w}x{h} ({len(files):,}, such as {files[0]!r})" for (w, h), files in commonest)
    raise UserError(f"{given}: images of {len(by_size)} sizes: {shown}; expected one size")


def _common_mode(given: str, headers: Sequence[_Header]) -> tuple[str, list[str]]:
    """The mode that all images are read as, and notes."""
    by_depth = {header.depth: header.where for header in headers}
    if len(by_depth) > 1:
        kinds = f"images of {' and of '.join(by_depth)}, such as {', '.join(map(repr, by_depth.values()))}"
        raise UserError(f"{given}: {kinds}; expected one of these")
    by_mode = {header.mode: header.where for header in headers}
    if by_mode.keys() == {_DEEP_GRAY, _DEEP_COLOUR}:
        shown = ", ".join(map(repr, by_mode.values()))
        raise UserError(f"{given}: gray images and images in colour, such as {shown}; expected one of these")
    gray = sum(header.mode == _GRAY for header in headers) if len(by_mode) > 1 else 0
    no_data = sorted({header.no_data for header in headers if header.no_data is not None})
    found = (
        (gray, "are gray and were read as RGB, as the others are"),
        (sum(header.has_alpha for header in headers), "have transparency, which was dropped"),
        (sum(header.orientation != _UPRIGHT for header in headers), "were turned upright, as their EXIF says"),
        (sum(header.is_first_frame for header in headers), "have further frames (MPO); the first was read"),
        (
            sum(header.no_data is not None for header in headers),
            f"name a value of missing pixels: {', '.join(f'{value:g}' for value in no_data)}",
        ),
    )
    notes = [f"{count:,} of {len(headers):,} images {what}" for count, what in found if count]
    return _COLOUR if _COLOUR in by_mode else headers[0].mode, notes


def _shape(header: _Header, mode: str) -> tuple[int, ...]:
    width, height = header.size
    return (3, height, width) if mode in (_COLOUR, _DEEP_COLOUR) else (height, width)


def _features(headers: Sequence[_Header], mode: str, given: str, names: Sequence[str]) -> NDArray[Any]:
    """The values of some images, one at least: bytes where all have 8 bits and none may be missing, else floats."""
    if mode in (_GRAY, _COLOUR) and all(header.no_data is None for header in headers):
        return collected(_decoded(headers, mode), len(headers), len(names))
    x_ND = np.empty((len(headers), len(names)), np.float32)
    for row, pixels in enumerate(_decoded(headers, mode)):
        x_ND[row] = pixels.ravel()
    return floats_of_array(x_ND, given, [f"value {name!r}" for name in names])[0]


def _decoded(headers: Sequence[_Header], mode: str) -> Iterator[NDArray[Any]]:
    """The values of each image, channel by channel, upright; NaN where one is missing."""
    for header in headers:
        if mode == _DEEP_COLOUR:
            pixels = _deep_colour(header)
        else:
            with reading(header.where, _KIND, (Exception,)), Image.open(header.path) as image:
                upright = image if header.orientation == _UPRIGHT else ImageOps.exif_transpose(image)
                # First to RGBA: a palette with transparency cannot be converted to RGB directly.
                whole = upright.convert("RGBA") if header.has_alpha and mode == _COLOUR else upright
                pixels = np.asarray(whole, np.float32) if mode == _DEEP_GRAY else np.asarray(whole.convert(mode))
        if header.no_data is not None:
            pixels = np.where(pixels == np.float32(header.no_data), np.float32(np.nan), pixels)
        yield np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels


def _deep_colour(header: _Header) -> NDArray[np.float32]:
    """Colours of 16 bits, of which Pillow would keep 8."""
    try:
        import cv2
    except ImportError as error:
        command = "pip install 'vae-study[images]'"
        raise UserError(f"{header.where}: colours of 16 bits need OpenCV; install it with {command}") from error
    if header.orientation != _UPRIGHT:
        raise UserError(f"{header.where}: colours of 16 bits and an EXIF orientation; expected an upright image")
    with reading(header.where, _KIND, (Exception,)):
        pixels = cv2.imdecode(np.frombuffer(header.path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        # OpenCV has blue first, and transparency last.
        return np.asarray(pixels, np.float32)[..., 2::-1]


SOURCES = (
    Source(
        name="images",
        open=open_images,
        settings=("factors", "layout"),
        paths=(FOLDER,),
        files=rf".*({'|'.join(map(re.escape, _SUFFIXES))})",
    ),
)
