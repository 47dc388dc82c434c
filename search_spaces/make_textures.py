"""Make pictures of a woven cloth, some with a scratch, a dent or a stain, and masks of these: MVTec AD's layout.

    python search_spaces/make_textures.py                           # textures/, 700 pictures of 256 x 256
    python search_spaces/make_textures.py --size 64 --train 300 --test 40 --output small

As from a camera above a belt, the cloth lies a little shifted and turned, in uneven light, and the sensor adds noise.
The folders are train/good, test/good and test/KIND of each flaw, and ground_truth/KIND with a mask of the flawed pixels
of each picture (Bergmann et al. 2019).
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

KINDS = ("scratch", "dent", "stain")
# Threads along a side, and how far the cloth lies off: in threads, and in degrees.
THREADS, SHIFT, TURN = 16, 0.25, 2.0
# Standard deviations of the sensor's noise and of the light, where the cloth's values lie between 0.3 and 0.7.
NOISE, LIGHT = 0.02, 0.05
# A pixel is flawed where the flaw changes it by more than this.
SEEN = 0.04
Plane = NDArray[np.float64]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--train", type=int, default=500, help="pictures without a flaw to train on")
    parser.add_argument("--test", type=int, default=50, help="pictures to test, of each kind of flaw and without one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("textures"))
    return parser.parse_args()


def cloth(size: int, random: np.random.Generator) -> Plane:
    """A picture without a flaw and without noise, (size, size), values in [0, 1]."""
    down, right = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    angle = np.deg2rad(random.uniform(-TURN, TURN))
    along, across = (
        turned * THREADS + random.uniform(-SHIFT, SHIFT)
        for turned in (np.cos(angle) * right + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * right)
    )
    # Threads lie above and below each other in turn, as in a plain weave.
    above = (np.floor(along) + np.floor(across)) % 2
    warp, weft = (np.sin(np.pi * (one % 1)) for one in (along, across))
    weave = 0.3 + 0.4 * np.where(above == 1, warp, weft)
    slope = random.normal(scale=LIGHT, size=3)
    light: Plane = weave * (1 + slope[0]) + slope[1] * down + slope[2] * right
    return light


def flaw(kind: str, size: int, random: np.random.Generator) -> Plane:
    """What a flaw adds to a picture, (size, size)."""
    down, right = (np.mgrid[:size, :size] + 0.5) / size
    centre, angle = random.uniform(0.25, 0.75, 2), random.uniform(0, 2 * np.pi)
    across = (down - centre[0]) * np.cos(angle) - (right - centre[1]) * np.sin(angle)
    along = (down - centre[0]) * np.sin(angle) + (right - centre[1]) * np.cos(angle)
    sign = random.choice((-1.0, 1.0))
    if kind == "scratch":
        length, width, bend = random.uniform(0.1, 0.25), random.uniform(0.006, 0.012), random.uniform(-1.5, 1.5)
        off = across - bend * along**2
        scratch: Plane = sign * 0.35 * np.exp(-0.5 * (off / width) ** 2) * (np.abs(along) < length)
        return scratch
    radius = random.uniform(0.05, 0.12)
    if kind == "dent":
        # Light on one side of a hollow, shade on the other.
        shape = np.exp(-0.5 * (across**2 + along**2) / radius**2)
        dent: Plane = 0.4 * across / radius * shape
        return dent
    rough = gaussian_filter(random.normal(size=(size, size)), size / 25)
    edge = np.hypot(across, along) + 0.35 * radius * rough / rough.std()
    stain: Plane = sign * 0.18 / (1 + np.exp((edge - radius) / (0.1 * radius)))
    return stain


def picture(kind: str | None, size: int, random: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A picture with a flaw of this kind, or without one, and its mask: white where the flaw is seen."""
    added = np.zeros((size, size)) if kind is None else flaw(kind, size, random)
    seen = cloth(size, random) + added + random.normal(scale=NOISE, size=(size, size))
    pixels = np.round(255 * np.clip(seen, 0, 1)).astype(np.uint8)
    return Image.fromarray(pixels), Image.fromarray((255 * (np.abs(added) > SEEN)).astype(np.uint8))


def main() -> None:
    """Write the folders."""
    given = arguments()
    random = np.random.default_rng(given.seed)
    for part, kind, count in (("train", None, given.train), *(("test", kind, given.test) for kind in (None, *KINDS))):
        folder, masks = given.output / part / (kind or "good"), given.output / "ground_truth" / (kind or "")
        folder.mkdir(parents=True, exist_ok=True)
        masks.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            made, mask = picture(kind, given.size, random)
            made.save(folder / f"{number:03}.png")
            if kind is not None:
                mask.save(masks / f"{number:03}_mask.png")
    pictures = given.train + given.test * (1 + len(KINDS))
    print(f"{given.output}: {pictures:,} pictures of {given.size} x {given.size}, flaws: {', '.join(KINDS)}")


if __name__ == "__main__":
    main()
