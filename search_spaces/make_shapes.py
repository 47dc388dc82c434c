"""Make pictures of a shape that differ in five known factors: its kind, its scale, its angle, and where it is.

    python search_spaces/make_shapes.py                             # shapes.npz, 6,000 pictures of 64 x 64
    python search_spaces/make_shapes.py --size 32 --rows 20000 --output shapes.npz

The factors have a few values each, whose 9,216 combinations are drawn evenly, as in dSprites (Matthey et al. 2017). No
shape looks the same at another angle, as a square would. The arrays are X, uint8, and one for each factor.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KINDS = ("heart", "half disc", "triangle")
# Scales are radii as shares of the picture's side, places those of the centre: every shape is inside the picture.
SCALES, PLACES = np.linspace(0.1, 0.2, 6), np.linspace(0.25, 0.75, 8)
ANGLES = np.arange(8) * 45.0
# Points a pixel's side, so that edges are smooth.
POINTS = 3
ROWS_AT_ONCE = 64


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=6_000)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("shapes.npz"))
    return parser.parse_args()


def shapes(rows: int, size: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """The pictures X, (rows, size, size), and the factors of each: `shape`, `scale`, `angle` (degrees), `x`, `y`."""
    random = np.random.default_rng(seed)
    values = {"shape": np.array(KINDS), "scale": SCALES, "angle": ANGLES, "x": PLACES, "y": PLACES}
    sizes = [len(one) for one in values.values()]
    # No picture twice, as long as there are others.
    combination_N = random.choice(np.prod(sizes), rows, replace=rows > np.prod(sizes))
    index_FN = np.unravel_index(combination_N, sizes)
    factors = {name: one[index_N] for (name, one), index_N in zip(values.items(), index_FN, strict=True)}
    x_NHW = np.empty((rows, size, size), np.uint8)
    for start in range(0, rows, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        x_NHW[part] = _drawn(size, *(values[part] for values in factors.values()))
    return {"X": x_NHW, **factors}


def _drawn(size: int, kind_N, scale_N, angle_N, x_N, y_N) -> NDArray[np.uint8]:
    """Pictures of white shapes on black, (N, size, size)."""
    fine = (np.arange(size * POINTS) + 0.5) / (size * POINTS)
    turn_N = np.deg2rad(angle_N)[:, None, None]
    right_NHW = (fine - x_N[:, None])[:, None, :] / scale_N[:, None, None]
    up_NHW = (y_N[:, None] - fine)[:, :, None] / scale_N[:, None, None]
    u_NHW = np.cos(turn_N) * right_NHW + np.sin(turn_N) * up_NHW
    v_NHW = np.cos(turn_N) * up_NHW - np.sin(turn_N) * right_NHW
    is_inside = np.zeros(u_NHW.shape, bool)
    for kind in KINDS:
        rows = kind_N == kind
        is_inside[rows] = _is_inside(kind, u_NHW[rows], v_NHW[rows])
    shares_NHW = is_inside.reshape(len(is_inside), size, POINTS, size, POINTS).mean(axis=(2, 4))
    return np.round(255 * shares_NHW).astype(np.uint8)


def _is_inside(kind: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points are inside a shape that fits into the unit circle, upright."""
    if kind == "heart":
        # Taubin 1993: (u^2 + v^2 - 1)^3 = u^2 v^3, of which the corners are at 1.2.
        u, v = 1.2 * u, 1.2 * v + 0.1
        return (u**2 + v**2 - 1) ** 3 <= u**2 * v**3
    if kind == "half disc":
        return (u**2 + v**2 <= 1) & (v >= 0)
    return (v >= -0.7) & (2.4 * np.abs(u) + v <= 1)


def main() -> None:
    """Write the file."""
    given = arguments()
    arrays = shapes(given.rows, given.size, given.seed)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(given.output, **arrays)
    print(f"{given.output}: {given.rows:,} pictures of {given.size} x {given.size}, factors {', '.join([*arrays][1:])}")


if __name__ == "__main__":
    main()
