"""The folders of MVTec AD (Bergmann et al. 2019): pictures to train on and to test, and masks of what is flawed.

    train/good, test/good, test/KIND, ground_truth/KIND

A picture test/KIND/000.png has the mask ground_truth/KIND/000_mask.png, or one of the same name: not black where the
picture is flawed. Pictures in train/KIND are flawed, too, and have no mask.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vae_study.data.sources.files import reading
from vae_study.data.table import Masks
from vae_study.errors import UserError

LAYOUT, GOOD, TRUTH = "mvtec", "good", "ground_truth"
# The parts in the order of their numbers in `Table.split_N`.
PARTS = ("train", "test")
Found = tuple[list[tuple[Path, str | None]], list[str]]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of such folders.

    Attributes:
        found: Each picture and the name of its folder.
        others: The names of files that are no pictures.
        part_N: The place of each picture's part in PARTS.
    """

    found: Sequence[tuple[Path, str | None]]
    others: Sequence[str]
    part_N: NDArray[np.int64]


def has_layout(folder: Path) -> bool:
    """Whether a folder has such folders in it."""
    train, test = PARTS
    return (folder / train / GOOD).is_dir() and (folder / test).is_dir()


def find_pictures(folder: Path, given: str, find: Callable[[Path, str], Found]) -> Pictures:
    """The pictures in train and test. Raise UserError if one of these, or train/good, is not there.

    Args:
        folder: Holds the two.
        given: What messages call it.
        find: Gives the pictures of a folder with one sub-folder for each label, and other files.
    """
    pictures: list[tuple[Path, str | None]] = []
    others: list[str] = []
    counts = []
    for part in PARTS:
        if not (folder / part).is_dir():
            expected = f"expected {PARTS[0]}/{GOOD} and {PARTS[1]}, as data.layout {LAYOUT} has them"
            raise UserError(f"{given}: has no folder {part!r}; {expected}")
        found, beside = find(folder / part, os.path.join(given, part))
        if GOOD not in {label for _, label in found}:
            raise UserError(f"{given}: {part} has no folder {GOOD!r}; expected one with the pictures without a flaw")
        pictures += found
        others += [f"{part}/{name}" for name in beside]
        counts.append(len(found))
    return Pictures(found=pictures, others=others, part_N=np.repeat(np.arange(len(PARTS)), counts))


def find_masks(folder: Path, given: str, pictures: Pictures, size: tuple[int, int]) -> Masks | None:
    """The masks of the flawed test pictures; None if there is no ground_truth.

    Raise UserError if one of them is missing.

    Args:
        folder, given: As of `find_pictures`.
        pictures: What that found.
        size: Width and height of each picture.
    """
    truth = folder / TRUTH
    if not truth.is_dir():
        return None
    paths: dict[int, Path] = {}
    digest = hashlib.sha256()
    for row, ((path, label), part) in enumerate(zip(pictures.found, pictures.part_N, strict=True)):
        if PARTS[part] == "train" or label == GOOD:
            continue
        names = (f"{path.stem}_mask", path.stem)
        beside = truth / str(label)
        mask = next((one for name in names for one in sorted(beside.glob(f"{name}.*"))), None)
        if mask is None:
            where = os.path.join(given, TRUTH, str(label), f"{names[0]}.png")
            raise UserError(f"{where}: is missing; expected a mask of each flawed picture, or no folder {TRUTH!r}")
        paths[row] = mask
        digest.update(mask.read_bytes())

    def mask_of(row: int) -> NDArray[np.bool_]:
        if row not in paths:
            return np.zeros(size[0] * size[1], bool)
        where = os.path.join(given, paths[row].relative_to(folder))
        with reading(where, "an image", (Exception,)), Image.open(paths[row]) as image:
            found = np.asarray(image.convert("L")) > 0
        if found.shape != size[::-1]:
            got = f"{found.shape[1]}x{found.shape[0]}"
            raise UserError(f"{where}: a mask of {got} pixels, expected {size[0]}x{size[1]}, as its picture has")
        return np.asarray(found.ravel())

    return Masks(sha256=digest.hexdigest(), count=len(paths), of=mask_of)
