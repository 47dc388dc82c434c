"""Folders of images, of which a sub-folder may stand for a class."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.sources.arrays import as_float32, pixel_names
from pipeline.data.sources.files import local_path
from pipeline.data.sources.labels import labels_of
from pipeline.data.sources.problems import reading
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

_KIND = "an image"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_SIZES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What an image says of itself before its pixels.

    Attributes:
        size: Width and height.
        kind: `L` for gray, `F` for gray of more than 8 bits, else `RGB`.
    """

    path: Path
    where: str
    size: tuple[int, int]
    kind: str
    has_alpha: bool


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """The images of a folder, before their pixels are read.

    Attributes:
        where: The folder.
        headers: In the order of their names.
        kind: What all are read as.
        labels: The sub-folder of each; None where there are no sub-folders.
        notes: What a user should know of the reading.
    """

    where: str
    headers: tuple[_Header, ...]
    kind: str
    labels: tuple[str, ...] | None
    notes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height and width, with the channels before them if there are any."""
        return _shape(self.headers[0], self.kind)

    def table(self, rows: slice = slice(None)) -> Table:
        """The pixels of some images, by default all."""
        names = pixel_names(self.image_shape)
        x_ND = _pixels(self.headers[rows], self.kind)
        return Table(
            x_ND=as_float32(x_ND, self.where, [f"value {name!r}" for name in names]),
            feature_names=names,
            image_shape=self.image_shape,
            where=self.where,
            notes=self.notes,
        )


def read_images(spec: DataSpec) -> Table:
    """All images of a folder, or of its sub-folders with their names as labels, in the order of these names."""
    folder = image_folder(str(spec.path))
    if folder.labels is None:
        return folder.table()
    label_N, labels = labels_of(folder.where, "sub-folder", list(folder.labels))
    return replace(folder.table(), label_N=label_N, labels=labels)


def image_folder(given: str) -> ImageFolder:
    """What there is in a folder.

    Raises:
        UserError: There is no such folder, or its images do not fit together.
    """
    folder = local_path(given, is_folder=True)
    with reading(given, "a folder"):
        found, others = _found(folder, given)
    headers = [_header(path, os.path.join(given, path.relative_to(folder))) for path, _ in found]
    _require_one_size(given, headers)
    kind, notes = _common_kind(given, headers)
    left_out = [f"what is no image was left out: {len(others):,} such as {others[0]!r}"] if others else []
    labels = tuple(label for _, label in found if label is not None)
    return ImageFolder(where=given, headers=tuple(headers), kind=kind, labels=labels or None, notes=(*left_out, *notes))


def _found(folder: Path, given: str) -> tuple[list[tuple[Path, str | None]], list[str]]:
    """Images with their labels, and the names of other files."""
    folders, images, others = _sorted_out(folder)
    if folders and images:
        raise UserError(f"{given}: {images[0].name!r} lies beside sub-folders; expected images in one or the other")
    if not folders and not images:
        raise UserError(f"{given}: no image; expected files such as a.png, or one sub-folder a class")
    found: list[tuple[Path, str | None]] = [(path, None) for path in images]
    for inner in folders:
        deeper, inside, beside = _sorted_out(inner)
        if deeper or not inside:
            came = f"the folder {deeper[0].name!r}" if deeper else "no image"
            raise UserError(f"{given}: sub-folder {inner.name!r} holds {came}; expected images, one sub-folder a class")
        found += [(path, inner.name) for path in inside]
        others += [f"{inner.name}/{name}" for name in beside]
    return found, others


def _sorted_out(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Folders, images and the names of other files."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in paths if path.is_dir()]
    images = [path for path in paths if path.suffix.lower() in SUFFIXES and path not in folders]
    return folders, images, [path.name for path in paths if path not in folders and path not in images]


def _header(path: Path, where: str) -> _Header:
    # Damaged images raise what each of Pillow's thirty readers happens to raise.
    with reading(where, _KIND, (Exception,)), Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise UserError(f"{where}: {frames} frames; expected a single image")
        is_gray, is_deep = image.mode in ("1", "L", "LA", "La"), image.mode[0] in "IF"
        has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
        kind = "F" if is_deep else "L" if is_gray else "RGB"
        return _Header(path=path, where=where, size=image.size, kind=kind, has_alpha=has_alpha)


def _require_one_size(given: str, headers: Sequence[_Header]) -> None:
    by_size: dict[tuple[int, int], list[str]] = {}
    for header in headers:
        by_size.setdefault(header.size, []).append(header.where)
    if len(by_size) == 1:
        return
    commonest = sorted(by_size.items(), key=lambda item: -len(item[1]))[:_SIZES_SHOWN]
    shown = ", ".join(f"{w}x{h} ({len(files):,}, such as {files[0]!r})" for (w, h), files in commonest)
    raise UserError(f"{given}: images of {len(by_size)} sizes: {shown}; expected one size")


def _common_kind(given: str, headers: Sequence[_Header]) -> tuple[str, list[str]]:
    """The kind that all images are read as, and notes."""
    by_kind = {header.kind: header.where for header in headers}
    if "F" in by_kind and len(by_kind) > 1:
        shown = ", ".join(map(repr, by_kind.values()))
        raise UserError(f"{given}: images of 8 bits a value and of more, such as {shown}; expected one of these")
    notes = []
    if len(by_kind) > 1:
        gray = sum(header.kind == "L" for header in headers)
        notes.append(f"{gray:,} of {len(headers):,} images are gray and were read as RGB, as the others are")
    with_alpha = sum(header.has_alpha for header in headers)
    if with_alpha:
        notes.append(f"the transparency of {with_alpha:,} of {len(headers):,} images was dropped")
    return "RGB" if "RGB" in by_kind else headers[0].kind, notes


def _shape(header: _Header, kind: str) -> tuple[int, ...]:
    width, height = header.size
    return (3, height, width) if kind == "RGB" else (height, width)


def _pixels(headers: Sequence[_Header], kind: str) -> NDArray[np.float32]:
    x_ND = np.empty((len(headers), int(np.prod(_shape(headers[0], kind)))), np.float32)
    for row, pixels in enumerate(_decoded(headers, kind)):
        x_ND[row] = pixels.ravel()
    return x_ND


def _decoded(headers: Sequence[_Header], kind: str) -> Iterator[NDArray[np.float32]]:
    """The values of each image, channel by channel."""
    for header in headers:
        with reading(header.where, _KIND, (Exception,)), Image.open(header.path) as image:
            # Past RGBA, as a palette with transparency has no other way to RGB.
            whole = image.convert("RGBA") if header.has_alpha and kind == "RGB" else image
            pixels = np.asarray(whole if kind == "F" else whole.convert(kind), np.float32)
        yield np.moveaxis(pixels, -1, 0) if kind == "RGB" else pixels
