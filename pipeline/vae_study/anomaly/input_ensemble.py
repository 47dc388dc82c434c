"""A detector without a model: four simple detectors on the features themselves, combined into one score.

Among detectors that see no labels, this fixed combination did best on 77 tables, also on those that it was not chosen
on: docs/benchmarks.md. Each member looks at what the others do not: distances, distances between ranks, densities
beside those of the neighbourhood, and single features. A missing value (NaN) counts as the mean of the reference rows.
"""

import math
from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import QuantileTransformer

from vae_study.anomaly.conformal import TailScale
from vae_study.anomaly.scores import Neighbours, finite, with_usual

Floats = NDArray[np.float64]
#: More reference rows than these take time and hardly improve a ranking.
INPUT_REFERENCE_ROWS = 4096
#: Reference rows have no more values than these together, and images are compared by about so many values.
REFERENCE_VALUES, MOST_PIXELS = 2**23, 4096
NEAREST, DENSITY_NEIGHBOURS = 3, 10
BINS, QUANTILES = 10, 1000
REFERENCE = "reference"
MEMBERS = ("distance", "rank_distance", "local_outlier_factor", "histogram")


class LocalOutlierFactor:
    """The mean distance to the nearest rows, and the local outlier factor (Breunig et al. 2000), by one search.

    scikit-learn's class of the same name gives the same factors, by a search of its own.
    """

    def __init__(self, reference_RD: Floats):
        """Take R rows as the reference, two at least."""
        self.neighbours = Neighbours(reference_RD, min(DENSITY_NEIGHBOURS, len(reference_RD) - 1))
        # No row is its own neighbour.
        distance_RK, place_RK = self.neighbours.search.kneighbors()
        self.reach_R = distance_RK[:, -1]
        self.density_R = self._density(distance_RK, place_RK)

    def _density(self, distance_NK: Floats, place_NK: NDArray[np.int64]) -> Floats:
        """The local reachability density; the smallest number keeps it finite among equal rows."""
        return np.asarray(1 / (np.maximum(distance_NK, self.reach_R[place_NK]).mean(axis=1) + 1e-10))

    def __call__(self, x_ND: Floats) -> tuple[Floats, Floats]:
        """The mean distance to the nearest rows, and the factor, both (N,)."""
        distance_NK, place_NK = self.neighbours.nearest(x_ND)
        factor_N = self.density_R[place_NK].mean(axis=1) / self._density(distance_NK, place_NK)
        return distance_NK[:, :NEAREST].mean(axis=1), factor_N


class Histogram:
    """The sum of the negative log frequencies of each feature's value (HBOS, Goldstein and Dengel 2012)."""

    def __init__(self, reference_RD: Floats):
        """Count R rows in bins of equal width between each feature's least and greatest value."""
        rows, features = reference_RD.shape
        self.low_D, self.high_D = reference_RD.min(axis=0), reference_RD.max(axis=0)
        self.width_D = np.where(self.high_D > self.low_D, self.high_D - self.low_D, 1) / BINS
        # One more bin, which is empty, for what is outside.
        count_DB = np.zeros((features, BINS + 1))
        place_RD = self._place(reference_RD)
        for feature in range(features):
            count_DB[feature] = np.bincount(place_RD[:, feature], minlength=BINS + 1)
        self.cost_DB = -np.log((count_DB + 0.5) / (rows + 0.5 * BINS))

    def _place(self, x_ND: Floats) -> NDArray[np.int64]:
        place_ND = np.minimum((np.clip(x_ND, self.low_D, self.high_D) - self.low_D) // self.width_D, BINS - 1)
        return np.where((x_ND < self.low_D) | (x_ND > self.high_D), BINS, place_ND).astype(np.int64)

    def __call__(self, x_ND: Floats) -> Floats:
        """The sums, shape (N,)."""
        return np.asarray(self.cost_DB[np.arange(x_ND.shape[1]), self._place(x_ND)].sum(axis=1))


def block_means(x_ND: Floats, image_shape: tuple[int, ...] | None) -> Floats:
    """Of images of more than MOST_PIXELS values, the means of square blocks, about so many; others as they are.

    Args:
        x_ND: N rows.
        image_shape: Height and width, preceded by the number of channels if there are several; None if no images.
    """
    if image_shape is None or x_ND.shape[1] <= MOST_PIXELS:
        return x_ND
    side = math.ceil(math.sqrt(x_ND.shape[1] / MOST_PIXELS))
    found = x_ND.reshape(-1, *image_shape)
    for axis in (-2, -1):
        first = np.arange(0, found.shape[axis], side)
        size = np.diff(np.append(first, found.shape[axis]))
        found = np.add.reduceat(found, first, axis=axis) / (size if axis == -1 else size[:, None])
    return np.ascontiguousarray(found.reshape(len(x_ND), -1))


class InputEnsemble:
    """The sum of its members' scores, each on a TailScale of its own.

    Attributes:
        reference_RD: Normal rows that rows are compared with. The same rows give the same scores, bit for bit.
        scales: Of each member.
        image_shape: Of images, which are compared by `block_means`; else None.
    """

    def __init__(
        self, reference_RD: Floats, scales: Mapping[str, TailScale], image_shape: tuple[int, ...] | None = None
    ):
        """Take R rows, two at least, as the reference."""
        self.reference_RD, self.scales, self.image_shape = reference_RD, scales, image_shape
        self.mean_D = reference_RD.mean(axis=0)
        reference_RD = block_means(reference_RD, image_shape)
        self.quantiles = QuantileTransformer(
            n_quantiles=min(QUANTILES, len(reference_RD)), output_distribution="normal", subsample=None
        ).fit(reference_RD)
        self.outliers = LocalOutlierFactor(reference_RD)
        self.ranks = Neighbours(self.quantiles.transform(reference_RD), NEAREST)
        self.histogram = Histogram(reference_RD)

    @classmethod
    def fit(cls, reference_RD: Floats, held_out_MD: Floats, image_shape: tuple[int, ...] | None = None) -> Self:
        """Fit it to normal rows, and its scales to other normal rows, one at least."""
        found = cls(with_usual(reference_RD), {}, image_shape)
        found.scales = {name: TailScale.of(one_M) for name, one_M in found._raw(held_out_MD).items()}
        return found

    def arrays(self) -> dict[str, Floats]:
        """All that it needs, by name, for `from_arrays`."""
        return {REFERENCE: self.reference_RD, **{name: scale.normal_M for name, scale in self.scales.items()}}

    @staticmethod
    def shapes(features: int) -> dict[str, tuple[int | None, ...]]:
        """The shapes of `arrays`, None for a size that may be any but 0."""
        return {REFERENCE: (None, features), **dict.fromkeys(MEMBERS, (None,))}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats], image_shape: tuple[int, ...] | None = None) -> Self:
        """The detector that `arrays` came from; it gives the same scores, bit for bit."""
        scales = {name: TailScale(normal_M=np.sort(arrays[name])) for name in MEMBERS}
        return cls(arrays[REFERENCE], scales, image_shape)

    def _raw(self, x_ND: Floats) -> dict[str, Floats]:
        x_ND = block_means(finite(with_usual(x_ND, self.mean_D)), self.image_shape)
        distance_N, factor_N = self.outliers(x_ND)
        rank_distance_N = self.ranks.distance(self.quantiles.transform(x_ND))
        members = (distance_N, rank_distance_N, factor_N, self.histogram(x_ND))
        return {name: finite(one_N) for name, one_N in zip(MEMBERS, members, strict=True)}

    def members(self, x_ND: Floats) -> dict[str, Floats]:
        """The score of each member for N rows, on its scale."""
        return {name: self.scales[name](one_N) for name, one_N in self._raw(x_ND).items()}

    def score(self, x_ND: Floats) -> Floats:
        """The scores of N rows, shape (N,); higher is more anomalous."""
        return np.asarray(sum(self.members(x_ND).values()))
