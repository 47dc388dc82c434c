"""Anomaly scores from the parts that a trained model gives of each example, fitted on training examples."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from pipeline.anomaly.areas import Floats
from pipeline.spec.schema import AnomalyScore

#: Every score of a trial, in the order of the spec.
SCORES: tuple[str, ...] = get_args(AnomalyScore)
#: Those that need nothing but the example's own parts, so that they can be followed epoch by epoch.
SIMPLE_SCORES = ("elbo", "reconstruction", "kl", "squared_error")
#: Those that look at the residual of each feature, or at the code.
OF_RESIDUAL, OF_CODE = frozenset({"residual_mahalanobis"}), frozenset({"latent_mahalanobis", "latent_knn"})
BASELINE = "input_knn"
NEIGHBOURS = 5
TREE_DIMENSIONS = 5
LARGEST = float(np.finfo(np.float32).max)
# Distances are squared and summed, so that residuals and codes have to end before their squares do.
LARGEST_COORDINATE = 1e12
# More training rows than these change no ranking worth the time that they cost.
REFERENCE_ROWS = 8192
# Above this many features a full covariance costs more than the model.
FULL_COVARIANCE = 4096


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a model says of N examples at the most likely code.

    Attributes:
        reconstruction_N, kl_N: Nats.
        reconstruction_probability_N: Mean of -log p(x|z) over draws of z, nats (An and Cho 2015); None where nothing
            was drawn.
        squared_error_N: Sum over features, in squared units of the scaled data.
        residual_ND: x - E[x|code]; no features where no score of OF_RESIDUAL is asked for.
        mean_NZ: Posterior means.
    """

    reconstruction_N: Floats
    kl_N: Floats
    reconstruction_probability_N: Floats | None
    squared_error_N: Floats
    residual_ND: Floats
    mean_NZ: Floats


def simple_scores(*, reconstruction_N: Floats, kl_N: Floats, squared_error_N: Floats) -> dict[str, Floats]:
    """The SIMPLE_SCORES of N examples.

    Args:
        reconstruction_N, kl_N: Nats per example.
        squared_error_N: In squared units of the scaled data, summed over features.
    """
    scores = {
        "elbo": reconstruction_N + kl_N,
        "reconstruction": reconstruction_N,
        "kl": kl_N,
        "squared_error": squared_error_N,
    }
    return {name: finite(score_N) for name, score_N in scores.items()}


def finite(values: Floats, largest: float = LARGEST) -> Floats:
    """Values with the largest in place of an overflow: no example is further from what the model knows."""
    # Of a number and no number, fmin takes the number.
    return np.fmax(np.fmin(values, largest), -largest)


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """A distribution that distances are measured by (Mahalanobis), with a shrunk covariance (Ledoit and Wolf 2004).

    Attributes:
        mean_D: Its mean.
        precision_DD: Inverse covariance; above FULL_COVARIANCE features only its diagonal, (D,).
    """

    mean_D: Floats
    precision_DD: Floats

    @classmethod
    def fit(cls, x_ND: Floats) -> Self:
        """The Gaussian of N rows."""
        if x_ND.shape[1] > FULL_COVARIANCE:
            return cls(mean_D=x_ND.mean(axis=0), precision_DD=1 / (x_ND.var(axis=0) + 1e-6))
        fitted = LedoitWolf().fit(x_ND)
        # In the order of memory that a file gives back: it may decide the last bits of a product.
        return cls(mean_D=fitted.location_, precision_DD=np.ascontiguousarray(fitted.precision_))

    def squared_distance(self, x_ND: Floats) -> Floats:
        """Squared Mahalanobis distance of N rows, without a unit."""
        centred_ND = x_ND - self.mean_D
        weighted_ND = centred_ND * self.precision_DD if self.precision_DD.ndim == 1 else centred_ND @ self.precision_DD
        return np.asarray((weighted_ND * centred_ND).sum(axis=1))


class Neighbours:
    """Mean distance to the k = 5 nearest reference rows, each feature in units of its standard deviation there.

    Attributes:
        reference_RD: The reference rows; the same rows make the same neighbours, bit for bit.
    """

    def __init__(self, reference_RD: Floats):
        """Take R rows as the reference; a constant feature counts as it is."""
        # The order in memory would decide the last bits of the moments.
        self.reference_RD = reference_RD = np.ascontiguousarray(reference_RD)
        self.mean_D, deviation_D = reference_RD.mean(axis=0), reference_RD.std(axis=0)
        self.deviation_D = np.where(deviation_D > 0, deviation_D, 1)
        # A tree saves nothing beyond a few dimensions: at 12, all pairs by matrix product take a fifth of its time.
        algorithm = "kd_tree" if reference_RD.shape[1] <= TREE_DIMENSIONS else "brute"
        self.search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(reference_RD)), algorithm=algorithm)
        self.search.fit((reference_RD - self.mean_D) / self.deviation_D)

    def distance(self, x_ND: Floats) -> Floats:
        """The distances of N rows, shape (N,)."""
        scaled_ND = (finite(x_ND, LARGEST_COORDINATE) - self.mean_D) / self.deviation_D
        nearest_NK = self.search.kneighbors(scaled_ND)[0]
        return np.asarray(nearest_NK.mean(axis=1))


def reference_rows(rows: int) -> NDArray[np.int64]:
    """Which of so many training rows serve as the reference: all, or REFERENCE_ROWS of them, always the same."""
    if rows <= REFERENCE_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, REFERENCE_ROWS, replace=False))


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """All scores of a model: what training examples are like.

    Attributes:
        residual: Of x - E[x|code].
        latent, neighbours: Of the posterior means.
    """

    residual: Gaussian
    latent: Gaussian
    neighbours: Neighbours

    @classmethod
    def fit(cls, trained: Parts) -> Self:
        """Look at the parts of the reference rows of train."""
        mean_NZ = finite(trained.mean_NZ, LARGEST_COORDINATE)
        residual = Gaussian.fit(finite(trained.residual_ND, LARGEST_COORDINATE))
        return cls(residual=residual, latent=Gaussian.fit(mean_NZ), neighbours=Neighbours(mean_NZ))

    def arrays(self) -> dict[str, Floats]:
        """All that it has learned, by name, for `from_arrays`."""
        return {
            "residual_mean": self.residual.mean_D,
            "residual_precision": self.residual.precision_DD,
            "latent_mean": self.latent.mean_D,
            "latent_precision": self.latent.precision_DD,
            "latent_reference": self.neighbours.reference_RD,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` was made from; it gives the same scores, bit for bit."""
        residual, latent = (
            Gaussian(mean_D=arrays[f"{part}_mean"], precision_DD=arrays[f"{part}_precision"])
            for part in ("residual", "latent")
        )
        return cls(residual=residual, latent=latent, neighbours=Neighbours(arrays["latent_reference"]))

    def scores(self, parts: Parts, names: Collection[str] = SCORES) -> dict[str, Floats]:
        """The scores of these names that there are parts for, in the order of SCORES; higher is more anomalous."""
        every = simple_scores(
            reconstruction_N=parts.reconstruction_N, kl_N=parts.kl_N, squared_error_N=parts.squared_error_N
        )
        if parts.reconstruction_probability_N is not None:
            every["reconstruction_probability"] = parts.reconstruction_probability_N
        if not OF_RESIDUAL.isdisjoint(names):
            residual_ND = finite(parts.residual_ND, LARGEST_COORDINATE)
            every["residual_mahalanobis"] = self.residual.squared_distance(residual_ND)
        every |= self._of_code(parts.mean_NZ, names)
        return {name: finite(every[name]) for name in SCORES if name in names and name in every}

    def _of_code(self, mean_NZ: Floats, names: Collection[str]) -> dict[str, Floats]:
        if OF_CODE.isdisjoint(names):
            return {}
        mean_NZ = finite(mean_NZ, LARGEST_COORDINATE)
        measures = {"latent_mahalanobis": self.latent.squared_distance, "latent_knn": self.neighbours.distance}
        return {name: measure(mean_NZ) for name, measure in measures.items() if name in names}
